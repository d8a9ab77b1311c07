"""The real Consul of the tests, found as `tests/debian_binary.py` finds every program; it is called by its name here.

Called by the suites with a real Consul. The one rule: without one, tests are skipped with the reason.
"""

from pathlib import Path

from tests.debian_binary import CONSUL, debian_binary, why_not

__all__ = ["consul_binary", "why_not"]


def consul_binary(*, fetch: bool = True) -> Path | None:
    """The path of a Consul that says its version, or None. With `fetch` False nothing is downloaded."""
    return debian_binary(CONSUL, fetch=fetch)
