"""The fields of a request's head: what every request to a server carries, and each of them as a line.

Used by `agent.client.http.pool` alone. The one rule: no field can end a head early, or hide from a proxy that checks
it.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from agent import __version__
from agent.client.http.coding import CODINGS
from agent.model import HttpTarget

# A node calls the same tools again and again.
_LINES_REMEMBERED_MAX: Final = 256
_USUAL_CHARS_MAX: Final = 256
# Servers with a token have their own.
_SETS_REMEMBERED_MAX: Final = 16

# Set by us on every message; a target's own headers cannot change them.
_OWN_HEADERS: Final = frozenset(
    {"accept", "accept-encoding", "content-type", "content-length", "connection", "transfer-encoding", "expect"}
)
# RFC 9110, sections 5.1 and 5.5: anything else would end a header early, or hide it from a proxy that checks it.
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")


def field_line(name: str, value: str) -> str:
    """A field as a line of a head; usual ones are remembered. Raises `ValueError` for one that HTTP does not allow."""
    return _usual_line(name, value) if len(value) < _USUAL_CHARS_MAX else checked_line(name, value)


def headers_of(target: HttpTarget) -> dict[str, str]:
    """What every request to `target` carries."""
    headers = {name: value for name, value in target.headers if name.lower() not in _OWN_HEADERS}
    if not any(name.lower() == "user-agent" for name in headers):
        headers["User-Agent"] = f"mcp-mesh-agent/{__version__}"
    headers |= {"Accept": "application/json, text/event-stream", "Accept-Encoding": ", ".join(CODINGS)}
    if target.token is not None:
        headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
        headers["Authorization"] = f"Bearer {target.token}"
    return headers


def checked_line(name: str, value: str) -> str:
    """As `field_line`; not remembered, for what is sent to one server alone."""
    if not (_NAME.fullmatch(name) and _VALUE.fullmatch(value)):
        raise ValueError(f"would get a header that HTTP does not allow: {name[:80]!r}")
    return f"{name}: {value}\r\n"


@lru_cache(maxsize=_SETS_REMEMBERED_MAX)
def lines_of(headers: tuple[tuple[str, str], ...]) -> Mapping[str, str]:
    """Fields as lines, by their names in small letters: most pools have the same, and each would hold its own."""
    return {name.lower(): checked_line(name, value) for name, value in headers}


_usual_line = lru_cache(maxsize=_LINES_REMEMBERED_MAX)(checked_line)
