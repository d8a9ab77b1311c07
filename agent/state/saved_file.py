"""Reads one of our own saved files, whole and of the right shape, or says why it cannot be used, and puts it aside.

Called by the files of the state folder. A file is put aside where its content is of no use, and not where only the
system refuses to read it (no descriptor, a fault of the disk, rights): that may end, and the file is whole. The one
rule: the reason repeats nothing of the file, whose texts may come from servers, from a catalog, or be secrets.
"""

from pathlib import Path
from typing import Any

import orjson

from agent.state.saved_shape import Misshapen, Shape
from discovery.ordinary_file import open_saved


class Unusable(Exception):
    """The file cannot be read, or holds something else; the text is the reason."""


class Refused(Unusable):
    """The system refuses to read it, now: what it holds may be whole, and another time readable."""

    def __init__(self, failure: OSError) -> None:
        self.failure = failure
        super().__init__(failure.strerror or type(failure).__name__)


def read_saved(path: Path, shape: Shape, bytes_max: int) -> Any:
    """What the file holds; None where there is none. One larger than `bytes_max` is cut off, and so no JSON any more.

    Raises:
        Refused: the system refuses.
        Unusable: the content is none of ours.
    """
    try:
        with open_saved(path) as file:
            saved = orjson.loads(file.read(bytes_max))
        shape(saved, "")
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise Refused(exc) from exc
    except orjson.JSONDecodeError as exc:
        raise Unusable(f"it is damaged at line {exc.lineno}, column {exc.colno}") from exc
    except Misshapen as exc:
        raise Unusable("it is damaged") from exc
    return saved


def put_aside(path: Path) -> tuple[str, str]:
    """Rename a file that cannot be used, so that nothing is written over it.

    Returns its new name, and why it has not got it, empty where it has.
    """
    aside = path.with_name(f"{path.name}.unreadable")
    try:
        path.replace(aside)
    except OSError as exc:
        return aside.name, exc.strerror or str(exc)
    return aside.name, ""
