"""From the body of `/v1/health/service/<name>` to a catalog: each row's bytes are parsed once, however often they come.

Used by the client, which cuts a body into rows, and by the watch, which keeps a `RowReader` between its answers. The
one rule: a row that names no instance is left out alone, and what cannot be dialled is kept, so that status can say so.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import orjson

from discovery.model import Catalog, CatalogUnavailable, Health, Instance, InstanceKey

PORT_MAX = 65_535
# How a row begins in Consul's compact JSON. Quotation marks within strings are escaped, and no other object of a row
# has an object as its `Node`: so these bytes are nowhere else.
_ROW_BEGINS = b'{"Node":{'
_HEALTHS = {health.value: health for health in Health}
_SEVERITY = {Health.PASSING: 0, Health.WARNING: 1, Health.CRITICAL: 2}
# Of the Consul node, and of one service, whose ID follows (Consul, maintenance mode).
SERVICE_MAINTENANCE = "_service_maintenance:"
_MAINTENANCE = ("_node_maintenance", SERVICE_MAINTENANCE)
_REASON_CHARS_MAX = 200
# Consul, service definition: an ordinary service has no kind, all others are proxies and gateways of its own mesh.
_OWN_KINDS = ("", None)
_MCP_PORT = "mcp"


def split_rows(content: bytes) -> list[bytes]:
    """Cut the body of an answer into its rows, each a JSON text; nothing is parsed where Consul wrote it.

    Raises:
        CatalogUnavailable: it is no JSON array.
    """
    text = content.strip()
    if text.startswith(b"[" + _ROW_BEGINS) and text.endswith(b"}]"):
        return [_ROW_BEGINS + rest for rest in text[1 + len(_ROW_BEGINS) : -1].split(b"," + _ROW_BEGINS)]
    rows = _loads(text)
    if not isinstance(rows, list):
        raise CatalogUnavailable("the answer's body is no list of instances")
    return [orjson.dumps(row) for row in rows]


_Order: TypeAlias = tuple[str, str, str]


class RowReader:
    """Parses rows, and remembers those of the last answer by their bytes. An unchanged row is the very same object.

    `far`: they are those of another datacentre.
    """

    def __init__(self, *, far: bool = False) -> None:
        self._far = far
        self._known: dict[bytes, tuple[_Order, Instance] | None] = {}

    def __repr__(self) -> str:
        return f"<RowReader rows={len(self._known)}>"

    def read(self, rows: Iterable[bytes]) -> tuple[Catalog, int]:
        """Return the catalog, sorted by key, and the number of rows that were left out.

        Raises:
            CatalogUnavailable: a row is no JSON.
        """
        known = self._known
        now = {row: known[row] if row in known else _ordered(parse_row(_loads(row), far=self._far)) for row in rows}
        self._known = now
        found = dict(one for one in now.values() if one is not None)
        return Catalog(tuple(found[key] for key in sorted(found))), sum(one is None for one in now.values())


def _ordered(instance: Instance | None) -> tuple[_Order, Instance] | None:
    """With its key as a plain tuple, which sorts many times faster."""
    if instance is None:
        return None
    return (instance.key.datacenter, instance.key.node, instance.key.service_id), instance


def parse_row(row: Any, *, far: bool = False) -> Instance | None:
    """Read one row; None when it lacks the identity or the address of an instance, or is a proxy of Consul's mesh."""
    match row:
        case {
            "Node": {"Node": str(node), **node_fields},
            "Service": {"ID": str(service_id), **service},
            **others,
        } if node and service_id and service.get("Kind") in _OWN_KINDS:
            address, port = address_of(service, node_fields, far=far), port_of(service)
            if not isinstance(address, str) or port is None:
                return None
            tags, created = service.get("Tags"), service.get("CreateIndex")
            checks, maintenance = split_checks(others.get("Checks"))
            health = worst_health(checks)
            return Instance(
                key=InstanceKey(_text(node_fields.get("Datacenter")), node, service_id),
                address=address,
                port=port,
                health=health,
                meta=MappingProxyType(_texts(service.get("Meta"))),
                tags=tuple(tag for tag in tags if isinstance(tag, str)) if isinstance(tags, list) else (),
                weight=_weight(service.get("Weights"), health),
                maintenance=maintenance,
                far=far,
                trouble="" if health is Health.PASSING else trouble_of(checks, health),
                created_index=created if type(created) is int else None,
            )
        case _:
            return None


def address_of(service: Mapping[Any, Any], node: Mapping[Any, Any], *, far: bool) -> Any:
    """The service's own address, else that of its Consul node; from afar that for the wide area, where there is one."""
    for owner in (service, node):
        tagged = owner.get("TaggedAddresses")
        wide = tagged.get("wan") if far and isinstance(tagged, dict) else None
        if isinstance(wide, dict):  # A service's have ports, which here are those of its registration.
            wide = wide.get("Address")
        if address := wide or owner.get("Address"):
            return address
    return None


def port_of(service: Mapping[Any, Any]) -> int | None:
    """The port to dial; 0 where the entry has none (newer versions leave a 0 out), None where it is no port at all.

    Consul 1.22 and later can register several: the one that is named `mcp`, else the default one.
    """
    port = service.get("Port", 0)
    several = [one for one in service.get("Ports") or () if isinstance(one, dict)]
    named = [one for one in several if one.get("Name") == _MCP_PORT]
    if not named and port == 0:
        named = [one for one in several if one.get("Default")]
    port = named[0].get("Port", 0) if named else port
    return port if type(port) is int and 0 <= port <= PORT_MAX else None


def split_checks(checks: Any) -> tuple[list[Any], str]:
    """The checks that tell an instance's health, and the operator's reason for its maintenance, empty without one.

    Consul keeps maintenance as a critical check with the reason in its Notes. It asks for no new calls; it says nothing
    about the instance.
    """
    health: list[Any] = []
    reasons: list[str] = []
    for check in checks if isinstance(checks, list) else ():
        check_id = check.get("CheckID") if isinstance(check, dict) else None
        if isinstance(check_id, str) and check_id.startswith(_MAINTENANCE):
            reasons.append(_line(check.get("Notes")) or "no reason given")
        else:
            health.append(check)
    return health, "; ".join(reasons)


def worst_health(checks: Any) -> Health:
    """The worst status among checks; an unknown status counts as critical."""
    worst = Health.PASSING
    for check in checks if isinstance(checks, list) else ():
        worst = max(worst, _health(check), key=_SEVERITY.__getitem__)
    return worst


def trouble_of(checks: Iterable[Any], health: Health) -> str:
    """The name and the output of each check that has this health, on one line."""
    bad = [check for check in checks if isinstance(check, dict) and _health(check) is health]
    names = [_line(check.get("Name")) or _line(check.get("CheckID")) or "a check" for check in bad]
    said = [_line(check.get("Output")) or "no output" for check in bad]
    return "; ".join(f"{name}: {output}" for name, output in zip(names, said, strict=True))[: 2 * _REASON_CHARS_MAX]


def _loads(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except ValueError as exc:
        raise CatalogUnavailable(f"the answer is not Consul's JSON: {exc}") from exc


def _health(check: Any) -> Health:
    status = check.get("Status") if isinstance(check, dict) else None
    return _HEALTHS.get(str(status), Health.CRITICAL)


def _weight(weights: Any, health: Health) -> int:
    """The weight that Consul gives an instance of this health; 1, its default, where it names none that is usable."""
    weight = weights.get("Warning" if health is Health.WARNING else "Passing") if isinstance(weights, dict) else None
    return max(1, weight) if type(weight) is int else 1


def _texts(value: Any) -> Mapping[str, str]:
    if not isinstance(value, dict):
        return {}
    return {name: text for name, text in value.items() if isinstance(name, str) and isinstance(text, str)}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _line(value: Any) -> str:
    """Untrusted text on one line and of bounded length."""
    return " ".join(_text(value).split())[:_REASON_CHARS_MAX]
