"""Names as the mesh shows them: joined, shortened, and undone again where a URI carries a namespace.

Called by selection and by the route table, on every node with the same result. The one rule: a public name is a
function of configuration alone, so nothing in here looks at who happens to be connected.
"""

import hashlib
import re
from typing import Final

# docs/architecture.md, "Names": clients in the field refuse longer tool names (the protocol itself allows 128).
PUBLIC_NAME_LEN_MAX: Final = 64
SEPARATOR: Final = "__"
# What `is_valid_name` demands, in words for those whose name was refused.
NAME_RULE: Final = "a name starts with a letter or digit, has at most 63 letters, digits, '.', '_' or '-', and no '__'"
# 40 bits: among 10,000 shortened names of one peer two collide with a chance of 1 in 20,000, and a collision is shown.
_DIGEST_LEN: Final = 10
_NODE_ID_LEN: Final = 8

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


def name_beginning(*parts: str) -> str:
    """What every public name below `parts` begins with, shortened ones too."""
    return _ILLEGAL_RUN.sub("-", SEPARATOR.join(parts) + SEPARATOR)[: PUBLIC_NAME_LEN_MAX - _DIGEST_LEN - 1]


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
