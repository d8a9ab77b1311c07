"""Instances made of bare addresses: what a file or a name of DNS says of them, which is little. PURE.

Called by the sources of this folder. Who answers at an address, its health and its offer are learned from the node
itself, by the link to it. The one rule: an address that is none is refused with its text, never guessed at.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from discovery.model import Instance, InstanceKey

PORT_MAX = 65_535
_LABELS_MAX = 64
_TARGET = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]{1,253}):(?P<port>[0-9]{1,5})")
_UNFIT = re.compile(r"[^A-Za-z0-9.-]+")
# Prometheus' own words for what our registration calls otherwise.
_WORDS = {"__scheme__": "scheme", "__mcp_path__": "mcp_path"}
_OURS = ("node_id", "name", "scheme", "mcp_path")


def instance_at(
    origin: str, host: str, port: int, *, name: str = "", meta: Mapping[str, str] | None = None, address: str = ""
) -> Instance:
    """One instance. `origin`: the file or name of DNS that lists it; `name`: what to call it, by default its address.

    `address`: what to dial, where that is known and `host` is a name.

    It has no datacentre: its address was given by an operator, and is not one of the machine that registered it.
    """
    host = host.strip("[]").rstrip(".")
    service_id = name or _UNFIT.sub("-", f"{host}-{port}").strip("-.")
    return Instance(InstanceKey("", origin, service_id), address or host, port, meta=MappingProxyType(dict(meta or {})))


def instances_of(origin: str, groups: Any) -> tuple[Instance, ...]:
    """The instances of a whole `file_sd` document: `[{"targets": ["host:port"], "labels": {"name": "node-b"}}]`.

    The labels `node_id`, `name`, `scheme` and `mcp_path` mean what they mean in the Meta of a registration; the name
    counts for a group of one target.

    Raises:
        ValueError: it is no such document; the text says what is wrong.
    """
    if not isinstance(groups, list):
        raise ValueError("it is no list of groups")  # noqa: TRY004 - of a document, as all others here
    found: dict[InstanceKey, Instance] = {}
    for group in groups:
        targets = group.get("targets") if isinstance(group, dict) else None
        labels = group.get("labels") or {} if isinstance(group, dict) else None
        if not isinstance(targets, list) or not isinstance(labels, dict) or len(labels) > _LABELS_MAX:
            raise ValueError("a group is no object with a list of targets and an object of labels")
        texts = {str(_WORDS.get(key, key)): text for key, text in labels.items() if isinstance(text, str)}
        meta = {key: text for key, text in texts.items() if key in _OURS}
        for target in targets:
            host, port = host_and_port(target)
            name = meta.get("name", "") if len(targets) == 1 else ""
            one = instance_at(origin, host, port, name=name, meta=meta)
            found[one.key] = one
    return tuple(found[key] for key in sorted(found))


def host_and_port(target: Any) -> tuple[str, int]:
    """Read `host:port`. Raises ValueError."""
    match = _TARGET.fullmatch(target) if isinstance(target, str) else None
    if match is None or not 0 < int(match["port"]) <= PORT_MAX:
        raise ValueError(f"{str(target)[:100]!r} is no host:port")
    return match["host"], int(match["port"])
