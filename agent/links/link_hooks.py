"""Whom a link tells what: the mesh, the metrics, and whoever wants to know of its backend's resources and tasks.

Filled in by the wiring, one for all links. The one rule: a hook returns at once and never raises.
"""

from collections.abc import Callable
from dataclasses import dataclass

from agent.links.following import Watch


@dataclass(frozen=True, slots=True)
class LinkHooks:
    """`changed`: any change of the link's view. `dialled`: how a dial ended. `reconnected`: whose door was lost."""

    changed: Callable[[], object]
    dialled: Callable[[str], None]
    reconnected: Callable[[str], None]
    watches: tuple[Watch, ...] = ()
