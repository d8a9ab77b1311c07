"""A catalog as bytes, for a node that wants to start with what it last knew while Consul is away. PURE.

Written and read by the wiring, which owns the file; what it reads goes to `ConsulSession.source(known=...)`. The one
rule: bytes that are not understood are no catalog, and no error.
"""

from types import MappingProxyType
from typing import Any

import orjson

from discovery.model import Catalog, Health, Instance, InstanceKey

SCHEMA = 1


def dump_catalog(catalog: Catalog) -> bytes:
    """Write a catalog as one JSON object."""
    instances = [
        {
            "key": [one.key.datacenter, one.key.node, one.key.service_id],
            "address": one.address,
            "port": one.port,
            "health": one.health.value,
            "meta": dict(one.meta),
            "tags": list(one.tags),
        }
        for one in catalog.instances
    ]
    return orjson.dumps({"schema": SCHEMA, "instances": instances})


def load_catalog(content: bytes) -> Catalog | None:
    """Read what `dump_catalog` wrote; None when it is anything else."""
    try:
        document = orjson.loads(content)
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            return None
        instances = [_instance(entry) for entry in document["instances"]]
    except (ValueError, KeyError, TypeError):
        return None
    return Catalog(tuple(sorted(instances, key=lambda one: one.key)))


def _instance(entry: Any) -> Instance:
    datacenter, node, service_id = (str(part) for part in entry["key"])
    return Instance(
        key=InstanceKey(datacenter, node, service_id),
        address=str(entry["address"]),
        port=int(entry["port"]),
        health=Health(entry["health"]),
        meta=MappingProxyType({str(name): str(text) for name, text in dict(entry["meta"]).items()}),
        tags=tuple(str(tag) for tag in entry["tags"]),
    )
