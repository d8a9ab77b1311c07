"""The failures that travel between the layers of `agent`. Vendor exceptions are translated into these at the edges.

Raised by clients, links, dispatch and configuration; turned into an envelope by `agent.rest`, or into a JSON-RPC error
by `agent.server`. The one rule: every failed call says whether the request may have been executed.

A failure has two texts: `str` of it is for operators (log, REST, command line) and may name addresses, commands and
what a server wrote; `words` are for clients, and hold nothing that was not written for them.
"""

from typing import Any, Final, Self, TypeVar

# Ours, in JSON-RPC's range for servers: why a forwarded request has no answer (docs/calls.md).
NOT_EXECUTED: Final = -32000
OUTCOME_UNKNOWN: Final = -32001
# Between the name of a tool and why there is no answer, in the text of a failure of unknown outcome.
PERHAPS_EXECUTED: Final = " may have been executed: "
# The client's token does not allow it (docs/calls.md).
FORBIDDEN: Final = -32003
# Of MCP before 2026-07-28, which retired it; servers of that time still say it, and the SDK has no name for it.
RESOURCE_NOT_FOUND: Final = -32002
# The SDKs' transports, for a session ID that they do not know; without a name there, and not ours by the same number.
SESSION_NOT_FOUND: Final = -32001
# In the error's data: the client left a server request unanswered while others waited. It says nothing of the server.
GIVEN_UP: Final = "question_given_up"

_E = TypeVar("_E", bound=BaseException)


class MeshError(Exception):
    """Base of everything that `agent` raises."""

    what = "gave no answer"
    is_for_clients = False
    # Nothing came back at all, for which this node itself may be to blame; a refusal, a reset or an end is an answer.
    silent = False
    # This node had no descriptor, memory or port for it: it says nothing of the other side. It is silence, too.
    short = False
    # Its connection ended before there was a whole answer, for a reason that may be none of the other side's.
    cut_off = False
    # The address refuses connections.
    refused = False
    # The HTTP status by which the server's trouble, or a proxy's, was said, and whether the body was an MCP server's.
    http_status = 0
    in_own_words = False
    # Not a byte went out, neither of it nor of what it needs first (a session, a token): it has burdened no one.
    nothing_sent = False

    @classmethod
    def about(cls, subject: str, what: str, detail: str = "", **more: Any) -> Self:
        """The failure whose text is `subject what` and `detail`; clients read `what` alone, after the server's name."""
        failure = cls(f"{subject} {what}{detail}", **more)
        failure.what = what or cls.what
        return failure

    @classmethod
    def for_clients(cls, text: str, **more: Any) -> Self:
        """The failure with a text that clients may read as it is: it names no address and no command."""
        failure = cls(text, **more)
        failure.is_for_clients = True
        return failure

    @classmethod
    def of(cls, failure: "MeshError", **more: Any) -> Self:
        """A failure of this class with both texts of another one."""
        same = cls(str(failure), **more)
        same.what, same.is_for_clients = failure.what, failure.is_for_clients
        return same.as_silent_as(failure)

    def as_silence(self, *, silent: bool = True) -> Self:
        """The same, noted as one in which nothing came back; with `silent` false, as one in which something did."""
        self.silent = silent
        return self

    def as_silent_as(self, failure: "MeshError") -> Self:
        """The same, noted as the other is: as silence, a lack of ours, refused, said, and as what burdened no one."""
        self.silent, self.short, self.nothing_sent = failure.silent, failure.short, failure.nothing_sent
        self.refused, self.http_status, self.in_own_words = failure.refused, failure.http_status, failure.in_own_words
        return self

    def as_said(self, http_status: int, *, in_own_words: bool = False) -> Self:
        """The same, noted as said by an HTTP status."""
        self.http_status, self.in_own_words = http_status, in_own_words
        return self

    def with_nothing_sent(self, *, nothing_sent: bool = True) -> Self:
        """The same, noted as one for which not a byte went out; with `nothing_sent` false, for which some did."""
        self.nothing_sent = nothing_sent
        return self

    def words(self, subject: str) -> str:
        """What clients may read of it; `subject` is what they know the server as."""
        return str(self) if self.is_for_clients else f"{subject} {self.what}"


def bare(failure: _E) -> _E:
    """The same without the frames of it and its causes: kept by what those know, it would be a circle.

    Only the garbage collector could take that away.
    """
    one: BaseException | None = failure
    while one is not None and one.__traceback__ is not None:
        one.__traceback__ = None
        one = one.__cause__ or one.__context__
    return failure


class ConfigRefused(MeshError):
    """Settings or a servers file cannot be used; the message names the place, the field and the fix. Exit code 2."""


class LinkFailed(MeshError):
    """A link could not be opened, or broke. `retry_soon` is False where only a long wait makes sense.

    `may_be_away`: it may be a proxy's word for a server that is away, so a call is reason to try again all the same.
    """

    retry_soon = True
    may_be_away = False

    def as_away(self, *, may_be_away: bool = True) -> Self:
        """The same, noted as what a proxy may say of a server that is away."""
        self.may_be_away = may_be_away
        return self


class Unreachable(LinkFailed):
    """Refused, reset, unresolvable, or no answer in time. `retry_after_s`: how long it asks us to wait (HTTP).

    `hangs`: it takes connections, and leaves what comes over them unanswered.
    """

    what = "cannot be reached"

    def __init__(
        self, message: str = "", *, retry_after_s: float | None = None, silent: bool = False, hangs: bool = False
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.silent = silent
        self.hangs = hangs

    @classmethod
    def because(cls, failure: MeshError) -> Self:
        """What a failed request says of the whole link: the operators' text alone."""
        return cls(str(failure)).as_silent_as(failure)


class AuthRefused(LinkFailed):
    """The other side answered 401 or 403: the token is missing or wrong.

    `by_node`: as a node of a mesh does it. `node_mark`: which one, as `agent.node_mark` has it. `status`: HTTP's.
    """

    retry_soon = False
    what = "refuses this node"

    def __init__(self, message: str, *, by_node: bool = False, node_mark: str | None = None, status: int = 401) -> None:
        super().__init__(message)
        self.by_node = by_node
        self.node_mark = node_mark
        self.status = status


class LoginNeeded(AuthRefused):
    """The server wants OAuth, and a person has to log in, once or again. Nothing was sent, or it was not executed."""

    what = "needs a login"


class ScopesNeeded(AuthRefused):
    """The token is good, and its scopes are too few for this one request, which was not executed.

    The next request may be for something that they are enough for, so it says nothing of the server's health.
    """

    what = "wants more scopes than this node's token for it has"


class ProtocolBroken(LinkFailed):
    """The other side does not speak MCP as we know it, or broke a limit of ours."""

    retry_soon = False
    what = "gave an answer that is not MCP"


class AnswerUnreadable(ProtocolBroken):
    """The answer to one request cannot be read (no JSON, nested too deep, too large); the next one may be."""


class DialRefused(LinkFailed):
    """The dial guard forbids the address (metadata, link-local, multicast, unspecified)."""

    retry_soon = False
    what = "has an address that is never dialled"


class IdentityRefused(LinkFailed):
    """The node that answered is not the one that was asked for.

    `claimed`: which node it says it is, as `agent.node_mark` has it; empty where it does not say.
    """

    retry_soon = False
    what = "is not the node or server that was asked for"

    def __init__(self, message: str = "", *, claimed: str = "") -> None:
        super().__init__(message)
        self.claimed = claimed


class DialledOurselves(LinkFailed):
    """The other side is this very node."""

    retry_soon = False
    what = "is this node itself"


class CallFailed(MeshError):
    """A forwarded request got no answer. The subclass tells whether it may have been executed."""


class CallNotSent(CallFailed):
    """No byte of the request was written: it was certainly not executed and may be tried elsewhere."""

    what = "could not be sent the request"


class RefusedElsewhere(CallFailed):
    """The node that was asked says that it did not execute the request either: it may be tried elsewhere."""

    is_for_clients = True


class NoLongerOffered(CallFailed):
    """The node that was asked says that it no longer has such a thing: not executed, may be tried elsewhere."""

    what = "no longer offers it"


class CallOutcomeUnknown(CallFailed):
    """The request was written, at least in part, and no answer came: it may or may not have been executed.

    `retry_after_s`: how long the server asks to wait before the next request (HTTP 429 and 503).
    """

    what = "gave no complete answer"

    def __init__(self, message: str = "", *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class CallTimedOut(CallOutcomeUnknown):
    """The deadline passed after the request was written."""

    what = "did not answer in time"
    silent = True


class CallRefused(CallFailed):
    """The request was not executed. `backend`: the last one tried, if any; `bytes_sent`: whether it got to read it."""

    def __init__(self, message: str, *, backend: str | None = None, bytes_sent: bool = False) -> None:
        super().__init__(message)
        self.backend = backend
        self.bytes_sent = bytes_sent


class CallUnanswered(CallOutcomeUnknown):
    """The request was sent to `backend` (None: which one is unknown), and whether it was executed is unknown.

    `timed_out`: the time was over. `broken`: an answer came that is none.
    """

    def __init__(
        self, message: str, *, backend: str | None, timed_out: bool, broken: bool, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.backend = backend
        self.bytes_sent = True
        self.timed_out = timed_out
        self.broken = broken


class AnswerCut(CallOutcomeUnknown):
    """A large result broke off after a part of it had gone to the client, whose connection must break, too."""


class RpcError(MeshError):
    """The other side answered with a JSON-RPC error; it is passed on as it came."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


class MCPError(MeshError):
    """The JSON-RPC error that a client is answered with, or that it answered a server request with."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = int(code)  # Servers may say `true`, which Python takes for a number.
        self.message = message
        self.data = data

    def to_json(self) -> dict[str, Any]:
        """The error object: without `data` where there are none."""
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        return error if self.data is None else {**error, "data": self.data}


class TooManyCalls(MCPError):
    """The client's token may not make another call yet; `retry_after_s`: but then. It was not executed."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        data = {"outcome": "not_executed", "retry_after_s": round(retry_after_s, 3)}
        super().__init__(NOT_EXECUTED, message, data)
        self.retry_after_s = retry_after_s


class OverrideRefused(MeshError):
    """An operator's request conflicts with what is there; `status` is the HTTP status, `code` the envelope's."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
