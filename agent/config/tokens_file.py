"""The tokens that an operator has named (`MESH_TOKENS_FILE`): hashes of tokens, and what each one allows.

Called at the start, at each change of the file, by `config check`, and by `mesh-agent token`. The one rule: a file with
any fault is not used at all, and every fault is named with path, line and field; a grant that was misread could be a
wider one.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from agent.authority.grant import Grant, NamedToken, Scope, reach_of
from agent.config.relaxed_json import JsonPath, dotted, find_places, parse_relaxed, place_of
from agent.config.servers_file import read_text
from agent.errors import ConfigRefused

SECTION: Final = "tokens"
# A file of so many is read in a tenth of a second; more are accounts, for which there are other systems.
TOKENS_MAX: Final = 4_096
# Of one name: two overlap while a token is replaced.
HASHES_MAX: Final = 2
PATTERNS_MAX: Final = 500
CALLS_MAX: Final = 1_000_000
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
NAME_RULE: Final = "a name starts with a letter or digit and has at most 63 letters, digits, '.', '_' or '-'"
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_GLOB: Final = re.compile(r"!?[A-Za-z0-9._*?\[\]-]{1,128}")
_FIELDS: Final = (
    "sha256",
    "scopes",
    "tools",
    "read_only",
    "expires",
    "calls_per_s",
    "concurrent_calls",
    "created",
    "comment",
)


def read_tokens_file(path: Path, for_all_scopes: Sequence[str] = ()) -> tuple[NamedToken, ...]:
    """The tokens of the file. Raises `ConfigRefused` with all of its faults.

    `for_all_scopes`: the tokens of `MESH_TOKEN`, which no name may limit.
    """
    return check_tokens(read_text(path, called="tokens file"), path, for_all_scopes)


def check_tokens(text: str, path: Path, for_all_scopes: Sequence[str] = ()) -> tuple[NamedToken, ...]:
    """The tokens of a file's text; see `read_tokens_file`."""
    root, plain = parse_relaxed(text, path)
    section: Any = root.get(SECTION) if isinstance(root, dict) else None
    found: list[NamedToken] = []
    faults: list[tuple[JsonPath, str]] = []
    if not isinstance(section, dict):
        example = '{"tokens": {"ci": {"sha256": "...", "scopes": ["mcp"]}}}'
        faults.append(((), f"must be an object like {example}; `mesh-agent token new` writes one"))
    elif len(section) > TOKENS_MAX:
        faults.append(((SECTION,), f"has {len(section)} tokens, at most {TOKENS_MAX} are allowed"))
    else:
        seen = {hashlib.sha256(token.encode()).digest(): "MESH_TOKEN" for token in for_all_scopes}
        for name, value in section.items():
            reader = EntryReader(name, value, (SECTION, name))
            token = reader.token()
            faults += reader.faults
            for digest in token.digests:
                if seen.setdefault(digest, name) != name:
                    faults.append(((SECTION, name, "sha256"), f"is the token of {seen[digest]} as well"))
            found.append(token)
    if faults or _repeats_members(plain):
        raise ConfigRefused("; ".join(sentences(plain, path, faults)))
    return tuple(found)


def _repeats_members(plain: str) -> bool:
    """Whether an object has a member twice; which one takes long to find, and a file is read while clients wait."""
    repeated = False

    def look(members: list[tuple[str, Any]]) -> None:
        nonlocal repeated
        repeated |= len(members) != len({name for name, _ in members})

    json.loads(plain, object_pairs_hook=look)
    return repeated


def sentences(plain: str, path: Path, faults: list[tuple[JsonPath, str]]) -> list[str]:
    """The faults with their places, and members that stand there twice."""
    lines, duplicates = find_places(plain)
    twice = [(f"{path}:{one.line}: {dotted(one.path)}: stands here for the second time") for one in duplicates]
    return twice + [
        f"{path}:{place_of(lines, at)}:" + (f" {dotted(at)}:" if at else "") + f" {fault}" for at, fault in faults
    ]


def parse_moment(text: str) -> float:
    """A moment as RFC 3339 has it, with its offset or `Z`, as seconds since 1970. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("no offset")
    return moment.astimezone(UTC).timestamp()


class EntryReader:
    """One entry. `faults`: what is wrong with it, as path and sentence; with faults it is not to be used."""

    def __init__(self, name: str, value: Any, at: JsonPath) -> None:
        self.name = name
        self.at = at
        self.faults: list[tuple[JsonPath, str]] = []
        self.value: dict[str, Any] = value if isinstance(value, dict) else {}
        if not isinstance(value, dict):
            self.fault(text="must be an object")
        if not NAME.fullmatch(name):
            self.fault(text=NAME_RULE)

    def fault(self, *path: str | int, text: str) -> None:
        """Note what is wrong with a member."""
        self.faults.append(((*self.at, *path), text))

    def token(self) -> NamedToken:
        """The whole entry."""
        for field in self.value:
            if field not in _FIELDS:
                self.fault(field, text=f"is not known; a token has {', '.join(_FIELDS)}")
        return NamedToken(self.grant(), self.digests())

    def grant(self) -> Grant:
        """What the entry allows."""
        scopes, tools = self.scopes(), self.tools()
        read_only = self.value.get("read_only", False)
        if not isinstance(read_only, bool):
            self.fault("read_only", text="must be true or false")
        if (tools is not None or read_only) and Scope.PEER in scopes:
            self.fault("scopes", text="peer is for nodes, which cannot be limited to tools; leave one of them out")
        for field in ("created", "comment"):
            if not isinstance(self.value.get(field, ""), str):
                self.fault(field, text="must be text")
        return Grant(
            self.name,
            frozenset(scopes),
            reach_of(scopes, tools, read_only=read_only is True),
            until_s=self.moment(),
            calls_per_s=self.number("calls_per_s", whole=False),
            concurrent_calls=None if (most := self.number("concurrent_calls", whole=True)) is None else int(most),
            made=str(self.value.get("created", "")),
        )

    def digests(self) -> tuple[bytes, ...]:
        """The hashes of its tokens."""
        value = self.value.get("sha256")
        listed = [value] if isinstance(value, str) else value
        if not isinstance(listed, list) or not 0 < len(listed) <= HASHES_MAX:
            self.fault("sha256", text=f"must be the SHA-256 of the token in hexadecimal, or an array of {HASHES_MAX}")
            return ()
        for text in listed:
            if not isinstance(text, str) or not _HASH.fullmatch(text):
                self.fault("sha256", text="must have 64 hexadecimal digits in lower case")
                return ()
        return tuple(bytes.fromhex(text) for text in listed)

    def scopes(self) -> frozenset[Scope]:
        """Its scopes."""
        value, known = self.value.get("scopes"), [scope.value for scope in Scope]
        if not isinstance(value, list) or not value:
            self.fault("scopes", text=f"must be an array of any of {', '.join(known)}")
            return frozenset()
        for number, word in enumerate(value):
            if word not in known:
                self.fault("scopes", number, text=f"must be one of {', '.join(known)}")
        return frozenset(Scope(word) for word in value if word in known)

    def tools(self) -> tuple[str, ...] | None:
        """The patterns of its tools; None for all."""
        value = self.value.get("tools")
        if value is None:
            return None
        if not isinstance(value, list) or len(value) > PATTERNS_MAX:
            self.fault("tools", text=f"must be an array of at most {PATTERNS_MAX} names, in which * and ? may stand")
            return ()
        for number, text in enumerate(value):
            if not isinstance(text, str) or not _GLOB.fullmatch(text):
                self.fault("tools", number, text="must be a name of tools, in which * and ? may stand, or ! before one")
        return tuple(text for text in value if isinstance(text, str))

    def moment(self) -> float | None:
        """When it ends, in seconds since 1970."""
        value = self.value.get("expires")
        if value is None:
            return None
        try:
            return parse_moment(value)
        except (TypeError, ValueError, OverflowError):
            self.fault("expires", text="must be a moment like 2027-01-31T00:00:00Z")
            return 0.0

    def number(self, field: str, *, whole: bool) -> float | None:
        """One of its limits."""
        value = self.value.get(field)
        if value is None:
            return None
        is_number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if not is_number or not 0 < value <= CALLS_MAX:
            self.fault(field, text=f"must be a {'whole ' if whole else ''}number above 0 and at most {CALLS_MAX}")
            return 1.0
        return float(value)
