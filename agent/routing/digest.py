"""Digests of what backends list, the same on every node that got the same bytes.

Called by links and the mesh (a whole offer) and by the route table (one definition). The one rule: what we add
ourselves, a public name and the origin, never counts, so a replica looks the same at home and three nodes away.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from agent.model import ORIGIN_META_KEY, Json, Offer
from agent.routing.table import NAME_MEMBER, RouteKind

# 128 bits: no attacker finds two definitions of one digest by trying.
_DIGEST_LEN: Final = 32


def canonical(value: Any) -> bytes:
    """JSON with sorted members and no white space.

    RFC 8785 differs in two ways that do not matter between nodes that all do this: it sorts by UTF-16 code units
    where orjson sorts by code points, and it writes 1.0 as 1 where we keep the backend's own distinction.

    Raises:
        ValueError: not canonical JSON (nested beyond 254 levels, integers beyond 64 bits, lone surrogates).
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError as exc:  # orjson.JSONEncodeError is one
        raise ValueError(str(exc)) from exc


def definition_digest(kind: RouteKind, definition: Mapping[str, Any]) -> str:
    """Digest a tool, prompt, resource or template without its name and without our origin entry in `_meta`.

    An empty `_meta`, or one that is no object, counts as none. Raises ValueError like `canonical`.
    """
    own = {member: value for member, value in definition.items() if member not in (NAME_MEMBER[kind], "_meta")}
    meta = definition.get("_meta")
    if isinstance(meta, dict):
        kept = {member: value for member, value in meta.items() if member != ORIGIN_META_KEY}
        if kept:
            own["_meta"] = kept
    return hashlib.sha256(canonical(own)).hexdigest()[:_DIGEST_LEN]


def offer_digest(
    tools: Sequence[Json], prompts: Sequence[Json], resources: Sequence[Json], templates: Sequence[Json]
) -> str:
    """Digest a whole offer, whatever order it is listed in. Never raises: what has no canonical form counts too."""
    total = hashlib.sha256()
    for part in (tools, prompts, resources, templates):
        digests = sorted(hashlib.sha256(_canonical_or_repr(entry)).digest() for entry in part)
        total.update(len(digests).to_bytes(4, "big"))
        total.update(b"".join(digests))
    return total.hexdigest()[:_DIGEST_LEN]


def exported_digest(offer: Offer) -> str:
    """What a node whose local endpoint lists `offer` tells the catalog of it: its management tools do not count."""
    parts = (offer.tools, offer.prompts, offer.resources, offer.templates)
    return offer_digest(*([entry for entry in part if _has_origin(entry)] for part in parts))


def _has_origin(entry: Json) -> bool:
    meta = entry.get("_meta") if isinstance(entry, dict) else None
    return isinstance(meta, dict) and ORIGIN_META_KEY in meta


def _canonical_or_repr(entry: Json) -> bytes:
    try:
        return canonical(entry)
    except ValueError:
        # The route table drops such an entry, so all that matters is that a change of it shows.
        return _flattened(entry).encode("utf-8", "surrogatepass")


def _flattened(entry: Json) -> str:
    """Texts and numbers of the entry behind their keys; without recursion, as `repr` ends at 1,000 levels."""
    parts: list[str] = []
    pending: list[Any] = [entry]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            parts.append(f"object {len(value)}")
            pending += (part for member in value.items() for part in member)
        elif isinstance(value, list):
            parts.append(f"array {len(value)}")
            pending += value
        else:
            parts.append(repr(value))
    return "\n".join(parts)
