"""One reversible codec for the URIs of a backend, wherever they stand: lists, reads, results, questions, definitions.

The forwarder and the route table make one for a route and the replica that answered. The one rule: a URI that is
shown to a client leads, read through this node, back to the backend and the URI that it stands for.

What a client can fetch by itself (`http`, `https`) or holds already (`data`) is left alone, in results and in clients'
lists: the address is the resource there (MCP, common URI schemes), and one with our namespace in it would lead to a
strange host. `file` is not such a scheme: the file lies on the server's machine, or on none.
"""

from dataclasses import dataclass
from operator import is_
from typing import Any, Final, TypeAlias

from agent.lossless_json.rewriter import Place
from agent.model import Json
from agent.routing.names import local_uri, public_uri

_FETCHED_BY_CLIENTS: Final = ("http:", "https:", "data:")
# Where MCP Apps name the page of a tool: today's member, and the one before it.
_PAGE: Final = "resourceUri"
_FLAT_PAGE: Final = "ui/resourceUri"

# A block of content, or anything else that a server sends in its place.
_Block: TypeAlias = Any


def is_fetched_by_clients(uri: str) -> bool:
    """Whether clients know a resource by this very URI."""
    return uri[:6].lower().startswith(_FETCHED_BY_CLIENTS)


@dataclass(frozen=True, slots=True)
class UriCodec:
    """`ours`: the namespace under which clients know the backend's URIs, as in lists; empty where they see it alone.

    `theirs`: the one that the backend itself puts there, as another node does; empty for none.
    """

    ours: str
    theirs: str = ""

    @property
    def changes_nothing(self) -> bool:
        """Whether both sides name everything alike."""
        return self.ours == self.theirs

    def public(self, uri: str) -> str:
        """What a client reads in the place of a URI that the backend wrote."""
        if self.changes_nothing or is_fetched_by_clients(uri):
            return uri
        bare = local_uri(self.theirs, uri) if self.theirs else uri
        if bare is None:
            return uri
        return public_uri(self.ours, bare) if self.ours else bare

    def remote(self, uri: str) -> str | None:
        """What the backend is asked for in the place of a client's URI; None: it is not of this namespace."""
        bare = local_uri(self.ours, uri) if self.ours else uri
        if bare is None:
            return None
        return public_uri(self.theirs, bare) if self.theirs else bare

    def meta(self, meta: Any) -> Any:
        """A `_meta` with the page of an MCP App as clients know it; the same object when it names none."""
        if not isinstance(meta, dict):
            return meta
        page, ui = meta.get(_FLAT_PAGE), meta.get("ui")
        if isinstance(page, str):
            meta = {**meta, _FLAT_PAGE: self.public(page)}
        if isinstance(ui, dict) and isinstance(ui.get(_PAGE), str):
            meta = {**meta, "ui": {**ui, _PAGE: self.public(ui[_PAGE])}}
        return meta

    def result(self, method: str, result: Json, asked: tuple[str, str] | None = None) -> Json:
        """A result with every URI of a resource as clients know it; the same object when none has to change.

        `asked`: the URI that the backend was asked for, and the one that its client asked for. Texts and
        `structuredContent` belong to the tool and stay unchanged.
        """
        if self.changes_nothing and (asked is None or asked[0] == asked[1]):
            return result
        changed: Json = {}
        match method:
            case "tools/call":
                changed["content"] = self._all(result.get("content"), self._block)
            case "prompts/get":
                changed["messages"] = self._all(result.get("messages"), self._message)
            case "resources/read":
                changed["contents"] = self._all(result.get("contents"), lambda part: self._with_uri(part, asked))
            case "tasks/get":
                ended = result.get("result")  # What the call would have been answered without a task.
                changed["result"] = self.result("tools/call", ended) if isinstance(ended, dict) else ended
        if "inputRequests" in result:
            changed["inputRequests"] = self._questions(result["inputRequests"])
        if "_meta" in result:
            changed["_meta"] = self.meta(result["_meta"])
        changed = {member: value for member, value in changed.items() if value is not result.get(member)}
        return {**result, **changed} if changed else result

    def _questions(self, asked: _Block) -> _Block:
        """What a server asks: messages for a model may name resources. Forms are words, and answers the client's."""
        if not isinstance(asked, dict):
            return asked
        shown = {key: self._question(question) for key, question in asked.items()}
        return asked if all(map(is_, shown.values(), asked.values())) else shown

    def _question(self, question: _Block) -> _Block:
        match question:
            case {"method": "sampling/createMessage", "params": {"messages": messages} as params}:
                shown = self._all(messages, self._message)
                return question if shown is messages else {**question, "params": {**params, "messages": shown}}
            case _:
                return question

    def places(self, method: str, asked: tuple[str, str] | None = None) -> dict[str, Place]:
        """Where `result` changes something in a result that asks nothing, for the walk through its text."""
        if self.changes_nothing and (asked is None or asked[0] == asked[1]):
            return {}
        uri = Place(text=self.public)
        block = {"uri": uri, "resource": Place({"uri": uri})}
        page = {_FLAT_PAGE: uri, "ui": Place({_PAGE: uri})}
        match method:
            case "tools/call":
                return {"content": Place(items=Place(block)), "_meta": Place(page)}
            case "prompts/get":
                part = {**block, "content": Place(items=Place(block))}
                message = Place({"content": Place(part, Place(part))})
                return {"messages": Place(items=message), "_meta": Place(page)}
            case "resources/read":
                read = Place({"uri": Place(text=lambda uri: self._as_asked(uri, asked))})
                return {"contents": Place(items=read), "_meta": Place(page)}
            case _:
                return {"_meta": Place(page)}

    def _message(self, message: _Block) -> _Block:
        if not isinstance(message, dict):
            return message
        content = message.get("content")
        shown = self._all(content, self._part) if isinstance(content, list) else self._part(content)
        return message if shown is content else {**message, "content": shown}

    def _part(self, part: _Block) -> _Block:
        """A part of a message: a block, or the blocks that a tool gave; those hold no others."""
        part = self._block(part)
        content = part.get("content") if isinstance(part, dict) else None
        shown = self._all(content, self._block)
        return part if shown is content else {**part, "content": shown}

    def _block(self, block: _Block) -> _Block:
        """A block of content that links to a resource, or embeds one; its `type` may follow behind what it says."""
        block = self._with_uri(block)
        resource = block.get("resource") if isinstance(block, dict) else None
        shown = self._with_uri(resource)
        return block if shown is resource else {**block, "resource": shown}

    def _with_uri(self, part: _Block, asked: tuple[str, str] | None = None) -> _Block:
        uri = part.get("uri") if isinstance(part, dict) else None
        if not isinstance(uri, str):
            return part
        shown = self._as_asked(uri, asked)
        return part if shown == uri else {**part, "uri": shown}

    def _as_asked(self, uri: str, asked: tuple[str, str] | None) -> str:
        return asked[1] if asked is not None and uri == asked[0] else self.public(uri)

    @staticmethod
    def _all(parts: _Block, shown: Any) -> _Block:
        if not isinstance(parts, list):
            return parts
        changed = [shown(part) for part in parts]
        return parts if all(map(is_, changed, parts)) else changed
