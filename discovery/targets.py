"""Instances made of bare addresses: what a file or a name of DNS says of them, which is little. PURE.

Called by `discovery.dns` and `discovery.file`. Who answers at an address, its health and its offer are learned from
the node itself, by the link to it. The one rule: an address that is none is refused with its text, never guessed at.
"""

import ipaddress
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from discovery.model import Instance, InstanceKey

PORT_MAX = 65_535
_TARGET = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]{1,253}):(?P<port>[0-9]{1,5})")
_UNFIT = re.compile(r"[^A-Za-z0-9._-]+")


def instance_at(
    origin: str, host: str, port: int, *, name: str = "", meta: Mapping[str, str] | None = None, address: str = ""
) -> Instance:
    """One instance. `origin`: the file or name of DNS that lists it; `name`: what to call it, by default its address.

    `address`: what to dial, where that is known and `host` is a name.

    It has no datacentre: its address was given by an operator, and is not one of the machine that registered it.
    """
    host = host.strip("[]").rstrip(".")
    service_id = name or _named_by(host, port)
    return Instance(InstanceKey("", origin, service_id), address or host, port, meta=MappingProxyType(dict(meta or {})))


def _named_by(host: str, port: int) -> str:
    """No two addresses have one such name: of IPv6 each colon counts."""
    try:
        text = ipaddress.IPv6Address(host).compressed.replace(":", "-")
    except ValueError:
        text = _UNFIT.sub("-", host).strip("-.")
    return f"0{text}-{port}" if text.startswith("-") else f"{text}-{port}"


def host_and_port(target: Any) -> tuple[str, int]:
    """Read `host:port`. Raises ValueError."""
    match = _TARGET.fullmatch(target) if isinstance(target, str) else None
    if match is None or not 0 < int(match["port"]) <= PORT_MAX:
        raise ValueError(f"{str(target)[:100]!r} is no host:port")
    return match["host"], int(match["port"])
