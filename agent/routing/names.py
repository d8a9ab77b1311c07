"""Names as the mesh shows them: joined, shortened, and undone again where a URI carries a namespace.

Called by selection and by the route table, on every node with the same result. The one rule: a public name is a
function of configuration alone, so nothing in here looks at who happens to be connected.

A tool or prompt has two names: the one between nodes, of at most 64 characters, which all releases make alike; and the
one that a node shows its clients, which is the same where that fits into the node's own limit.
"""

import hashlib
import re
from typing import Final

from agent.model import PUBLIC_NAME_LEN_MAX, PUBLIC_NAME_LEN_MIN

SEPARATOR: Final = "__"
# What `is_valid_name` demands, in words for those whose name was refused.
NAME_RULE: Final = (
    "must be 1 to 63 letters, digits, dots, dashes or underscores, start with a letter or digit, and have no __"
)
# 40 bits: among 10,000 shortened names of one peer two collide with a chance of 1 in 20,000, and a collision is shown.
_DIGEST_LEN: Final = 10
_NODE_ID_LEN: Final = 8

# What even the shortest limit leaves of the beginning of a name.
_HEAD_LEN_MIN: Final = ((PUBLIC_NAME_LEN_MIN - _DIGEST_LEN - 1 - len(SEPARATOR)) // 3 - 1) // 2

_SHORTENED: Final = re.compile(rf"-[0-9a-f]{{{_DIGEST_LEN}}}$")
_VALID_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_LEGAL: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ILLEGAL_RUN: Final = re.compile(r"[^A-Za-z0-9_-]+")
# A scheme ends at the first colon and has no slash before it. Wider than RFC 3986 (FastMCP accepts `my_scheme://` too),
# but without braces: the variable of a template such as `{scheme}://x` is no scheme.
_SCHEME: Final = re.compile(r"([^:/?#{}]+:(?://)?)(.*)", re.DOTALL)


def is_valid_name(name: str) -> bool:
    """Whether a node, a peer or a server may be called so."""
    return _VALID_NAME.fullmatch(name) is not None and SEPARATOR not in name


def valid_name(text: str) -> str:
    """`text` where it is a valid name, else a valid name made of it with a digest; the same on every node."""
    if is_valid_name(text):
        return text
    readable = re.sub(r"[^A-Za-z0-9._-]+|_{2,}", "-", text).strip("._-")[:40] or "peer"
    return f"{readable}-{_short_digest(text)}"


def public_name(*parts: str) -> str:
    """Join `parts` with `__`; at most 64 characters of [A-Za-z0-9_-].

    A legal result stays as it is. Others keep a readable beginning and get a digest of the full joined name.
    """
    joined = SEPARATOR.join(parts)
    if _LEGAL.fullmatch(joined):
        return joined
    readable = _ILLEGAL_RUN.sub("-", joined)[: PUBLIC_NAME_LEN_MAX - _DIGEST_LEN - 1]
    return f"{readable}-{_short_digest(joined)}"


def shown_name(*parts: str, len_max: int = PUBLIC_NAME_LEN_MAX) -> str:
    """Join `parts`, the tool's own name last, with `__`; at most `len_max` characters of [A-Za-z0-9_-].

    A legal result that fits stays as it is. Others keep the beginning and the end of what stands before the tool, the
    tool's own name or its beginning and end, and get the digest of `public_name`: what tells siblings apart stands at
    an end of a name more often than in its middle. The tool has two thirds of the room, if it needs them.
    """
    joined = SEPARATOR.join(parts)
    if len(joined) <= len_max and _LEGAL.fullmatch(joined):
        return joined
    before, own = (_ILLEGAL_RUN.sub("-", part) for part in (SEPARATOR.join(parts[:-1]), parts[-1]))
    room = len_max - _DIGEST_LEN - 1 - len(SEPARATOR)
    own_room = max(room - min(len(before), room // 3), room - len(before))
    before_room = room - min(len(own), own_room)
    return f"{_elided(before, before_room)}{SEPARATOR}{_elided(own, own_room)}-{_short_digest(joined)}"


def is_name_of(name: str, *parts: str) -> bool:
    """Whether a node of any release, with any limit, may call `parts` so."""
    joined = SEPARATOR.join(parts)
    return _LEGAL.fullmatch(name) is not None and (name == joined or name.endswith(f"-{_short_digest(joined)}"))


def name_beginning(*parts: str) -> str:
    """What every public name below `parts` begins with, but for shortened ones: see `may_begin_with`."""
    return _ILLEGAL_RUN.sub("-", SEPARATOR.join(parts) + SEPARATOR)


def may_begin_with(name: str, beginning: str) -> bool:
    """Whether a public name may be one below `beginning`, by what can be seen of it."""
    return name.startswith(beginning) or (
        _SHORTENED.search(name) is not None and name.startswith(beginning[:_HEAD_LEN_MIN])
    )


def _elided(text: str, len_max: int) -> str:
    """`text`, or its beginning and its end; the end is the longer one."""
    if len(text) <= len_max:
        return text
    head = (len_max - 1) // 2
    return f"{text[:head]}-{text[head + 1 - len_max :]}"


def node_alias(node_name: str, node_id: str) -> str:
    """The name that tells two nodes of one name apart: `<name>-<first 8 hex digits of node_id>`.

    It is a valid name where `node_name` is one: the name is cut to leave room for the digits.
    """
    tail = node_id.replace("-", "")[:_NODE_ID_LEN].lower()
    return f"{node_name[: 62 - _NODE_ID_LEN]}-{tail}"


def public_uri(namespace: str, uri: str) -> str:
    """Put a namespace into a URI or a URI template, by FastMCP's convention.

    `scheme://path` becomes `scheme://namespace/path`, `scheme:rest` becomes `scheme:namespace/rest`, and what has no
    scheme gets the namespace in front. `namespace` must not be empty and must have no `/` and no `:`.
    """
    assert namespace
    assert "/" not in namespace
    assert ":" not in namespace
    scheme, rest = _split_scheme(uri)
    return f"{scheme}{namespace}/{rest}"


def local_uri(namespace: str, uri: str) -> str | None:
    """Undo `public_uri`; None when `uri` is not in that namespace."""
    scheme, rest = _split_scheme(uri)
    found, slash, path = rest.partition("/")
    return scheme + path if slash and found == namespace else None


def uri_namespace(uri: str) -> str | None:
    """The part of a URI where `public_uri` puts the namespace; None when there is none."""
    _, rest = _split_scheme(uri)
    found, slash, _ = rest.partition("/")
    return found if slash and found else None


def _split_scheme(uri: str) -> tuple[str, str]:
    match = _SCHEME.fullmatch(uri)
    return (match[1], match[2]) if match else ("", uri)


def _short_digest(text: str) -> str:
    # Surrogates that came as JSON escapes have no UTF-8; two such names must still differ.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_LEN]
