"""What stays the JSON that it came as, of a large message: read, it takes up to forty times its bytes.

Made by `agent.lossless_json.outline`, sent on by `agent.client.jsonrpc`: the arguments of a call, what a client answers
to a server, and all that no node looks at, under `BESIDE`. What has to look into one asks for the members
that it needs. The one rule: an `Unread` is JSON on one line that `read_json` reads and orjson could write again, as
`agent.lossless_json.envelope` has checked; so it breaks neither the message nor the line that it is put into. What was
looked at is what is sent: of two members with one name no server may take another one than we did.
"""

from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from typing import Any, Final, TypeAlias

import orjson

from agent.errors import MCPError
from agent.lossless_json.ends import Text
from agent.lossless_json.exact import read_json
from agent.lossless_json.members import Members, Place, TooMany, Tree, members_of, without
from agent.lossless_json.values import values_in
from agent.model import Json
from agent.rpc_codes import INVALID_PARAMS

ARGUMENTS: Final = "arguments"
META: Final = "_meta"
# The name, in params and in `_meta`, of all members that no node looks at: no name that is read holds half a surrogate
# pair, and orjson writes none, so it can neither come from outside nor go out by mistake.
BESIDE: Final = "\ud800"
# What a node has to look into, it reads up to here: at most 2 MB as a text and 6 MB as values.
LOOKED_AT_BYTES_MAX: Final = 512 << 10
LOOKED_AT_VALUES_MAX: Final = 30_000
# A member that one looks for, and that is not larger, is read; a larger one may be an object to be passed on.
_PART_BYTES_MAX: Final = 64 << 10
_LINE_BREAKS: Final = bytes.maketrans(b"\r\n", b"  ")
_LOOKED_THROUGH_BYTES: Final = 64 << 10

# A member by the names that lead to it.
Path: TypeAlias = tuple[str, ...]


class Unread:
    """One JSON value as bytes, in `pieces`; as arguments it is an object, and under `BESIDE` the members of one.

    Where members stand is remembered, for it takes time.
    """

    __slots__ = ("_at", "_members", "pieces")

    def __init__(self, *pieces: Text) -> None:
        self.pieces: tuple[Text, ...] = tuple(map(on_one_line, pieces))
        self._members: dict[frozenset[Path], Members] = {}
        self._at: dict[frozenset[Path], Json] = {}

    def __repr__(self) -> str:
        return f"<Unread {self.bytes_len} bytes>"

    @property
    def bytes_len(self) -> int:
        """How many bytes it has."""
        return sum(map(len, self.pieces))

    @property
    def raw(self) -> bytes:
        """All of its bytes."""
        return b"".join(self.pieces)

    @property
    def is_object(self) -> bool:
        """Whether it is an object."""
        return bytes(self.pieces[0][:1]) == b"{"

    def looked_at(self, where: str) -> Any:
        """The value. Raises `MCPError` for more than a node may have to look into."""
        if self.bytes_len > LOOKED_AT_BYTES_MAX:
            raise _refused(f"{where}: more than {LOOKED_AT_BYTES_MAX} bytes, and a node has to look into it")
        if values_in(self.raw, LOOKED_AT_VALUES_MAX) > LOOKED_AT_VALUES_MAX:
            raise _refused(f"{where}: more than {LOOKED_AT_VALUES_MAX} values, and a node has to look into it")
        return read_json(self.raw)

    def parts(self, names: Collection[str]) -> Json:
        """The members of these names, if it has them; large ones unread. Raises `MCPError`."""
        members = _done(self.find((name,) for name in names))
        text = self._text()
        return {name: _part(text, place) for name, place in members.last().items()}

    def taken_out(self, name: str) -> tuple[Any, "Unread"]:
        """The member of this name, None for none, and the same object without any. Raises `MCPError`."""
        members = self.opened((name,))
        value, rest = members.pop(name, None), members.get(BESIDE)
        return value, Unread(b"{", *(() if rest is None else rest.pieces), b"}")

    def opened(self, names: Collection[str]) -> Json:
        """The same object, its members of these names as by `parts`, the others under `BESIDE`. Raises `MCPError`."""
        members = _done(self.find((name,) for name in names))
        text = self._text()
        known = {name: _part(text, place) for name, place in members.last().items()}
        if others := without(text, members, members.places):
            known[BESIDE] = Unread(*others)
        return known

    def at(self, paths: Iterable[Path]) -> Json:
        """What stands at these paths: texts, numbers, booleans and nulls; of a list or an object, an empty one.

        Of members with one name on the way, the last one counts and the others go nowhere. Raises `MCPError`.
        """
        wanted = frozenset(paths)
        if (found := self._at.get(wanted)) is None:
            members, text = _done(self.find(wanted)), self._text()
            found = self._at[wanted] = _shallow(text, members, ARGUMENTS)
            if _repeats(members):
                self.pieces = tuple(piece for piece in (b"{", *_last_of_each(text, members), b"}") if len(piece) > 0)
                self._members.clear()
        return found

    def look_at(self, paths: Iterable[Path]) -> Generator[None, None, None]:
        """The steps of `at`, which then needs none. Raises `MCPError`."""
        wanted = frozenset(paths)
        if wanted and wanted not in self._at:
            yield from self.find(wanted)

    def find(self, paths: Iterable[Path]) -> Generator[None, None, Members]:
        """The steps to where the members at these paths stand, which is then remembered. Raises `MCPError`."""
        wanted = frozenset(paths)
        if (found := self._members.get(wanted)) is None:
            tree = _tree(wanted)
            try:
                found = self._members[wanted] = yield from members_of(self._text(), 0, tree, tree)
            except TooMany as exc:
                raise _refused(f"{ARGUMENTS}: {exc}") from exc
        return found

    def _text(self) -> Text:
        return self.pieces[0] if len(self.pieces) == 1 else self.raw


def arguments_at(params: Json, paths: Callable[[], Iterable[Path]]) -> Any:
    """The arguments, of unread ones only what stands at these paths. Raises `MCPError` as `Unread.at`."""
    arguments = params.get(ARGUMENTS)
    return arguments.at(paths()) if isinstance(arguments, Unread) else arguments


def taken_out(params: Json, name: str) -> tuple[Any, Json]:
    """An argument, and the params without it. Raises `MCPError` as `Unread.looked_at`."""
    arguments = params.get(ARGUMENTS) or {}
    if not isinstance(arguments, Unread):
        kept = {other: value for other, value in arguments.items() if other != name}
        return arguments.get(name), {**params, ARGUMENTS: kept}
    value, rest = arguments.taken_out(name)
    if isinstance(value, Unread):
        value = value.looked_at(f"{ARGUMENTS}.{name}")
    return value, {**params, ARGUMENTS: rest}


def all_read(params: Json) -> Json:
    """The same params without what no node looks at, the rest read. Raises `MCPError` as `Unread.looked_at`."""
    read = {
        name: value.looked_at(name) if isinstance(value, Unread) else value
        for name, value in params.items()
        if name != BESIDE
    }
    if isinstance(meta := read.get(META), dict) and BESIDE in meta:
        read[META] = {name: value for name, value in meta.items() if name != BESIDE}
    return read


def has_unread(members: Json) -> bool:
    """Whether anything in params, or in their `_meta`, is unread."""
    meta = members.get(META)
    return any(type(one) is Unread for one in members.values()) or (isinstance(meta, dict) and has_unread(meta))


def written(members: Json) -> list[Text]:
    """Params with unread members as JSON, in at least two parts; the arguments are last. Raises `TypeError`."""
    meta = members.get(META)
    apart = {name for name, value in members.items() if type(value) is Unread}
    if isinstance(meta, dict) and has_unread(meta):
        apart.add(META)
    glue = orjson.dumps({name: value for name, value in members.items() if name not in apart})[:-1]
    is_first, parts = glue == b"{", list[Text]()
    for name in sorted(apart, key=lambda one: (one == ARGUMENTS, one)):
        comma = b"" if is_first else b","
        named = b"" if name == BESIDE else orjson.dumps(name) + b":"
        value = members[name]
        parts.append(glue + comma + named)
        parts += written(value) if name == META and type(value) is not Unread else value.pieces
        glue, is_first = b"", False
    return [*parts, glue + b"}"] if parts else [glue, b"}"]


def as_member(members: Json) -> "Json | Unread":
    """An object as one value, where members of it may be unread. Raises `TypeError`."""
    return Unread(*written(members)) if has_unread(members) else members


def on_one_line(piece: Text) -> Text:
    """The same JSON with spaces for raw line breaks, which are white space, and would end a message over a pipe."""
    return bytes(piece).translate(_LINE_BREAKS) if _has_line_breaks(piece) else piece


def _has_line_breaks(piece: Text) -> bool:
    if isinstance(piece, bytes):
        return b"\n" in piece or b"\r" in piece
    parts = (bytes(piece[at : at + _LOOKED_THROUGH_BYTES]) for at in range(0, len(piece), _LOOKED_THROUGH_BYTES))
    return any(map(_has_line_breaks, parts))


def _part(text: Text, place: Place) -> Any:
    """The value of a member, unread where it is large."""
    raw = memoryview(text)[place.value : place.value_end]
    return read_json(raw) if len(raw) <= _PART_BYTES_MAX else Unread(raw)


def _tree(paths: Iterable[Path]) -> Tree:
    deeper: dict[str, list[Path]] = {}
    for name, *rest in paths:
        beyond = deeper.setdefault(name, [])
        if rest:
            beyond.append(tuple(rest))
    return {name: _tree(beyond) for name, beyond in deeper.items()}


def _shallow(text: Text, members: Members, where: str) -> Json:
    """The values of members, with nothing in a list or an object but what was looked for. Raises `MCPError`."""
    found: Json = {}
    for name, place in members.last().items():
        raw = memoryview(text)[place.value : place.value_end]
        if place.inner is not None:
            found[name] = _shallow(text, place.inner, f"{where}.{name}")
        elif (begin := bytes(raw[:1])) in {b"{", b"["}:
            found[name] = {} if begin == b"{" else []
        else:
            found[name] = Unread(raw).looked_at(f"{where}.{name}")
    return found


def _repeats(members: Members) -> bool:
    """Whether a member that was looked for is followed by one of the same name."""
    last = members.last()
    inner = (place.inner for place in last.values())
    return len(members.places) > len(last) or any(one is not None and _repeats(one) for one in inner)


def _last_of_each(text: Text, members: Members) -> Iterator[Text]:
    """What stands within the braces, without members that are followed by one of the same name."""
    view, at, last = memoryview(text), members.begin, members.last()
    for place in members.places:
        if place is not last[place.name]:
            yield view[at : place.begin]
            at = place.end
        elif place.inner is not None:
            yield view[at : place.inner.begin]
            yield from _last_of_each(text, place.inner)
            at = place.inner.end
    yield view[at : members.end]


def _done(steps: Generator[None, None, Members]) -> Members:
    """What they lead to, at once."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            members: Members = end.value
            return members


def _refused(words: str) -> MCPError:
    return MCPError(code=INVALID_PARAMS, message=words)
