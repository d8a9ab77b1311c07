"""Which servers answer their first question quickly: a silence of theirs is no slowness.

Kept by `agent.links.dial` for all that a node dials, and asked where a client is opened over HTTP. A server that hangs
is knocked at (`agent.client.http.awakening`). A knock that means nothing may be answered by a gateway in its place; the
first question itself is not, but a slow gateway may start a program for each. The one rule: only a server that answered
it quickly the last time is knocked at by it, and the more rarely the longer that took.
"""

from typing import Final

# Hardly a gateway starts a program in less, and a busy machine or a long way takes no longer.
QUICK_S: Final = 1.0
# As many links as one node may have; those that were noted longest ago make room, and are knocked at as unknown ones.
QUICK_MAX: Final = 20_000


class QuickServers:
    """By their URLs. Sole writer: the event loop."""

    __slots__ = ("_took_s",)

    def __init__(self) -> None:
        self._took_s: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<QuickServers {len(self._took_s)}>"

    def took_s(self, url: str) -> float | None:
        """How long its answer took the last time; None for one that is not known to be quick."""
        return self._took_s.get(url)

    def note(self, url: str, took_s: float) -> None:
        """It has answered its first question, after so long."""
        self._took_s.pop(url, None)
        if took_s < QUICK_S:
            self._took_s[url] = took_s
            if len(self._took_s) > QUICK_MAX:
                del self._took_s[next(iter(self._took_s))]
