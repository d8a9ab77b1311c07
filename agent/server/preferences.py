"""How a client wants to be served, by the query of the endpoint's URL: for clients that cannot bear what is usual.

Read by both ways into an endpoint, `agent.server.stateless` and `agent.server.sessions.http`. `?notices=off`: no
`list_changed`, neither sent nor promised, for frameworks that stop at the first one. `?errors=result`: a call that was
not executed, or whose outcome is unknown, is a result with `isError` that a model can read, for frameworks that raise
at errors. `?pages=on`: the client shows the pages of MCP Apps, though it does not declare so, as ext-apps' basic host.
The settings `MESH_NOTICES` and `MESH_ERRORS` hold for clients that do not say. The one rule: a word that is not known
is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from agent.client.capabilities import shows_pages, with_pages
from agent.errors import NOT_EXECUTED, OUTCOME_UNKNOWN, MCPError
from agent.model import ERROR_META_KEY, Json
from agent.server.request import refuse

NOTICES: Final = {"on": True, "off": False}
ERRORS: Final = {"protocol": False, "result": True}
PAGES: Final = {"declared": False, "on": True}
UNKNOWN: Final = "unknown"  # An outcome, in an error's `data`.


@dataclass(frozen=True, slots=True)
class Preferences:
    """`notices`: whether list changes are announced. `errors_as_results`, `pages`: see the module."""

    notices: bool = True
    errors_as_results: bool = False
    pages: bool = False

    def of(self, request: web.Request) -> "Preferences | web.Response":
        """Those of a request, with these where it does not say; a refusal for a word that is not known."""
        if not request.query_string:
            return self
        query = request.query
        try:
            return Preferences(
                _choice("notices", query, NOTICES, default=self.notices),
                _choice("errors", query, ERRORS, default=self.errors_as_results),
                _choice("pages", query, PAGES, default=self.pages),
            )
        except ValueError as exc:
            return refuse(400, str(exc))

    def as_result(self, method: str, failure: MCPError) -> Json | None:
        """What is answered in place of `failure`; None where the error is."""
        if not self.errors_as_results or method != "tools/call":
            return None
        outcome = failure.data.get("outcome") if isinstance(failure.data, dict) else None
        if failure.code not in (NOT_EXECUTED, OUTCOME_UNKNOWN) and outcome != UNKNOWN:
            return None
        return {
            "content": [{"type": "text", "text": _with_outcome(failure.message, outcome)}],
            "isError": True,
            "_meta": {ERROR_META_KEY: {"code": failure.code, "data": failure.data}},
        }

    def declared(self, capabilities: object) -> object:
        """A client's capabilities, as it declared them, with what its URL says beside."""
        return with_pages(capabilities) if self.pages and not shows_pages(capabilities) else capabilities

    def promised(self, introduction: Json) -> Json:
        """The result of `initialize` or `server/discover`; a client that wants no list changes is promised none."""
        if self.notices:
            return introduction
        capabilities = {
            name: {key: value for key, value in feature.items() if key != "listChanged"}
            for name, feature in introduction["capabilities"].items()
        }
        return {**introduction, "capabilities": capabilities}


# What clients get that do not say, in a node that does not either.
USUAL: Final = Preferences()


def _with_outcome(message: str, outcome: object) -> str:
    """The words of a failure, and what they mean for the next step: a model reads no `data`."""
    for one, fact, advice in (
        (UNKNOWN, "may have been executed", "look before you make it again"),
        ("not_executed", "was not executed", "you may make it again"),
    ):
        if outcome == one:
            said = "" if fact in message else f". The call {fact}"
            return f"{message.rstrip('.')}{said}; {advice}."
    return message


def _choice(name: str, query: Mapping[str, str], words: Mapping[str, bool], *, default: bool) -> bool:
    word = query.get(name)
    if word is None:
        return default
    if word not in words:
        raise ValueError(f"{name} in the endpoint's URL: one of {', '.join(words)}")
    return words[word]
