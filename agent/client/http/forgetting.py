"""Whether a server that refuses a request in a session no longer knows that session: pure decisions.

Used by `agent.client.http.session`, through the refusals of `agent.client.http.response`. The specification says 404,
whatever its body; servers say it in many ways, and most kinds of refusal may be about the request alone. The one rule:
where a refusal is clear, nothing is asked; else a ping in the same session decides: a ping cannot be wrong itself.
"""

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from agent.errors import RESOURCE_NOT_FOUND, SESSION_NOT_FOUND, RpcError
from agent.rpc_codes import CONNECTION_CLOSED, INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND

# How long a kind of refusal is taken to be about the request, after a ping in the same session was answered.
DOUBT_PAUSE_S: Final = 10.0
# The same, when a ping was refused in a session that was new: this server may refuse all of them.
REFUSED_PINGS_PAUSE_S: Final = 300.0

_OK: Final = 200
_SERVER_ERROR: Final = 500
# The statuses that servers say it with, whatever the text: those by the specification, and the others.
_GONE: Final = frozenset({404, 410})
_REFUSALS: Final = _GONE | {400, 422}
# The token, unless the text names the session.
_ACCESS: Final = frozenset({401, 403})

# The codes of transports: of SDKs for what they refuse before any method gets it.
_TRANSPORT_CODES: Final = frozenset({INVALID_REQUEST, CONNECTION_CLOSED, SESSION_NOT_FOUND})
_WORDS: Final = ("session", "not initialized")
# Codes for what is unknown in the request: its method, or what it names.
_UNKNOWN: Final = frozenset({METHOD_NOT_FOUND, INVALID_PARAMS, RESOURCE_NOT_FOUND})


class Standing(Enum):
    """What a refusal says of the session."""

    FORGOTTEN = auto()
    DOUBTFUL = auto()
    KNOWN = auto()


@dataclass(frozen=True, slots=True)
class Refused:
    """One refusal: its HTTP status, the JSON-RPC error in its body, and its text. A status of 200 has an error."""

    status: int
    error: RpcError | None = None
    said: str = ""

    @property
    def standing(self) -> Standing:
        """What it says of the session whose ID the request had."""
        if self.status in _ACCESS:
            return Standing.FORGOTTEN if self._names_session else Standing.KNOWN
        if self.status in _REFUSALS:
            return self._standing_of_refusal()
        if self.status in (_OK, _SERVER_ERROR) and self._names_session and self._is_of_transport:
            return Standing.DOUBTFUL  # It may have been executed, and be about a session of something else.
        return Standing.KNOWN

    @property
    def is_unexecuted(self) -> bool:
        """Whether the request was certainly not executed, when the session was forgotten a moment before as well."""
        if self.standing is Standing.DOUBTFUL and self.status != _SERVER_ERROR:
            return self.error is None or (self._names_session and self._is_of_transport)
        return self.standing is Standing.FORGOTTEN

    @property
    def may_be_of_old_session(self) -> bool:
        """Whether a doubtful one means that its session is over, if another was opened meanwhile."""
        return self.status in _REFUSALS

    def confirmed_by(self, ping: "Refused | None") -> bool:
        """Whether a ping that was answered so in the same session (None: not refused) shows that it is forgotten."""
        if ping is None or (ping.error is not None and ping.error.code == METHOD_NOT_FOUND):
            return False
        if self.status in _REFUSALS:
            return ping.status in _REFUSALS or ping.standing is not Standing.KNOWN
        return ping.status == self.status and ping.standing is Standing.DOUBTFUL

    def _standing_of_refusal(self) -> Standing:
        code = None if self.error is None else self.error.code
        if self.status in _GONE:
            is_clear = self._names_session or code not in _UNKNOWN
        else:
            is_clear = self._names_session and self._is_of_transport
        if is_clear:
            return Standing.FORGOTTEN
        return Standing.KNOWN if code == METHOD_NOT_FOUND and not self._names_session else Standing.DOUBTFUL

    @property
    def _names_session(self) -> bool:
        said = self.said.lower()
        return any(word in said for word in _WORDS)

    @property
    def _is_of_transport(self) -> bool:
        return self.error is None or self.error.code in _TRANSPORT_CODES


@dataclass(slots=True)
class Doubts:
    """The statuses that are about requests for now, by status until when; few, as few are ever doubtful."""

    _until_s: dict[int, float] = field(default_factory=dict)

    def settle(self, status: int, until_s: float) -> None:
        """Take refusals of this status to be about their requests until then."""
        self._until_s[status] = until_s

    def are_settled(self, status: int, now_s: float) -> bool:
        """Whether no ping is needed now."""
        return now_s < self._until_s.get(status, now_s)
