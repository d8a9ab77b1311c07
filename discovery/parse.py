"""From Consul's health rows to a `Catalog`. PURE.

Called by the watch with whatever JSON came. The one rule: one broken row costs that row alone; the others are other
people's nodes and stay.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from discovery.model import Catalog, Health, Instance, InstanceKey

PORT_MAX = 65_535
_HEALTHS = {health.value: health for health in Health}
_SEVERITY = {Health.PASSING: 0, Health.WARNING: 1, Health.CRITICAL: 2}


def parse_catalog(rows: Iterable[Any]) -> tuple[Catalog, int]:
    """Turn the rows of `/v1/health/service/<name>` into a catalog and the number of broken rows that were left out."""
    found: dict[InstanceKey, Instance] = {}
    skipped = 0
    for row in rows:
        instance = parse_row(row)
        if instance is None:
            skipped += 1
        else:
            found[instance.key] = instance
    return Catalog(tuple(found[key] for key in sorted(found))), skipped


def parse_row(row: Any) -> Instance | None:
    """Read one row; None when it lacks what identifies or reaches an instance."""
    match row:
        case {
            "Node": {"Node": str(node), **node_fields},
            "Service": {"ID": str(service_id), "Port": int(port), **service_fields},
            **others,
        } if node and service_id and 0 <= port <= PORT_MAX:
            tags = service_fields.get("Tags")
            address = service_fields.get("Address") or node_fields.get("Address")
            if not isinstance(address, str):
                return None
            health = worst_health(others.get("Checks"))
            return Instance(
                key=InstanceKey(_text(node_fields.get("Datacenter")), node, service_id),
                address=address,
                port=port,
                health=health,
                meta=MappingProxyType(_texts(service_fields.get("Meta"))),
                tags=tuple(tag for tag in tags if isinstance(tag, str)) if isinstance(tags, list) else (),
                weight=_weight(service_fields.get("Weights"), health),
            )
        case _:
            return None


def worst_health(checks: Any) -> Health:
    """The worst status among checks; one that Consul did not have when this was written counts as critical."""
    worst = Health.PASSING
    for check in checks if isinstance(checks, list) else ():
        status = check.get("Status") if isinstance(check, dict) else None
        worst = max(worst, _HEALTHS.get(str(status), Health.CRITICAL), key=_SEVERITY.__getitem__)
    return worst


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
