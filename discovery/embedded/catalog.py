"""The state of the embedded catalog: services, their checks, and Consul's index over them. PURE but for being mutable.

Owned and written by `discovery.embedded.http`, which passes the time in. Each method that changes something returns the
service names whose readers must be woken. The one rule: the index moves exactly when the content moves; an identical
registration bumps nothing.
"""

from dataclasses import dataclass, replace
from typing import Any

from discovery.embedded.definition import SERVICES_MAX, CheckSpec, Definition, Refused

DATACENTER = "local"
_NO_NAMES: frozenset[str] = frozenset()
_INDEX_CEILING = 2**42  # More than the milliseconds of the epoch until the year 2109.


def first_index_at(unix_time_s: float) -> int:
    """Where the index of a server that starts now begins: lower than where any earlier server's ended.

    Clients must see that the state is another one; a lower index is how Consul says so. An ordinary start at 1 could
    meet the old index again by chance, and a query that waits for the next one would hide everything before it.
    """
    return max(1, _INDEX_CEILING - int(unix_time_s * 1000))


@dataclass(slots=True)
class _Entry:
    """One service and the present state of its check."""

    definition: Definition
    status: str
    output: str
    created_index: int
    modified_index: int
    lapses_at_s: float | None
    critical_since_s: float | None


class LocalCatalog:
    """The registrations of one machine's nodes. `node_name` is the machine's, so it survives a change of the server."""

    def __init__(self, node_name: str, *, first_index: int = 1) -> None:
        self._node_name = node_name
        self._first_index = first_index
        self._entries: dict[str, _Entry] = {}
        self._owners: dict[str, str] = {}  # check ID -> service ID
        self._index = first_index
        self._name_index: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<LocalCatalog services={len(self._entries)} index={self._index}>"

    def register(self, definition: Definition, now_s: float) -> frozenset[str]:
        """Add a service or replace the one of the same ID."""
        previous = self._entries.get(definition.service_id)
        if previous is None and len(self._entries) >= SERVICES_MAX:
            raise Refused(500, f"the embedded catalog is full: {SERVICES_MAX} services")
        check = definition.check
        status = check.status if check else "passing"
        same = previous is not None and previous.definition == definition and previous.status == status
        names = _NO_NAMES if same else frozenset({definition.name, *([previous.definition.name] if previous else [])})
        if names:
            self._bump(names)
        if previous is not None and previous.definition.check is not None:
            self._owners.pop(previous.definition.check.check_id, None)
        if check is not None:
            self._owners[check.check_id] = definition.service_id
        self._entries[definition.service_id] = _Entry(
            definition=definition,
            status=status,
            output=previous.output if previous and same else "",
            created_index=previous.created_index if previous else self._index,
            modified_index=previous.modified_index if previous and same else self._index,
            lapses_at_s=now_s + check.ttl_s if check and check.ttl_s else None,
            critical_since_s=now_s if status == "critical" else None,
        )
        return names

    def deregister(self, service_id: str) -> frozenset[str]:
        """Remove a service."""
        entry = self._entries.pop(service_id, None)
        if entry is None:
            raise Refused(500, f'Unknown service "{service_id}"')
        if entry.definition.check is not None:
            self._owners.pop(entry.definition.check.check_id, None)
        names = frozenset({entry.definition.name})
        self._bump(names)
        return names

    def beat(self, check_id: str, status: str, output: str, now_s: float) -> frozenset[str]:
        """Take a heartbeat of a TTL check."""
        entry = self._of_check(check_id)
        if entry is None or entry.definition.check is None or entry.definition.check.ttl_s is None:
            raise Refused(500, f'CheckID "{check_id}" does not have associated TTL')
        entry.lapses_at_s = now_s + entry.definition.check.ttl_s
        return self._set_status(entry, status, output, now_s)

    def probed(self, check_id: str, status: str, output: str, now_s: float) -> frozenset[str]:
        """Take the result of an HTTP check; a check that has gone meanwhile is no error."""
        entry = self._of_check(check_id)
        return self._set_status(entry, status, output, now_s) if entry else _NO_NAMES

    def expire(self, now_s: float) -> frozenset[str]:
        """Turn lapsed TTL checks critical and remove services that were critical for too long."""
        names = _NO_NAMES
        for entry in tuple(self._entries.values()):
            if entry.lapses_at_s is not None and entry.lapses_at_s <= now_s:
                entry.lapses_at_s = None
                names |= self._set_status(entry, "critical", "TTL expired", now_s)
            if (due_s := _removal_due_s(entry)) is not None and due_s <= now_s:
                names |= self.deregister(entry.definition.service_id)
        return names

    def next_expiry_s(self) -> float | None:
        """When `expire` has something to do next, None for never."""
        times_s = [
            time_s
            for entry in self._entries.values()
            for time_s in (entry.lapses_at_s, _removal_due_s(entry))
            if time_s is not None
        ]
        return min(times_s, default=None)

    def http_checks(self) -> dict[str, CheckSpec]:
        """The HTTP checks, which have to be probed, by check ID."""
        checks = (entry.definition.check for entry in self._entries.values())
        return {check.check_id: replace(check, status="") for check in checks if check and check.http_url}

    def index_of(self, name: str) -> int:
        """The index of the last change to a service name, never lower than before; the first one for a new name."""
        return self._name_index.get(name, self._first_index)

    def never_gave(self, index: int) -> bool:
        """Whether an index can only come from an earlier server."""
        return index > self._index

    def knows(self, name: str) -> bool:
        """Whether a service of this name was ever registered here."""
        return name in self._name_index

    def health_rows(self, name: str, *, passing_only: bool = False) -> list[dict[str, Any]]:
        """The rows of `/v1/health/service/<name>`."""
        return [
            self._row(entry)
            for entry in self._entries.values()
            if entry.definition.name == name and (entry.status == "passing" or not passing_only)
        ]

    def agent_services(self) -> dict[str, dict[str, Any]]:
        """The object of `/v1/agent/services`."""
        return {service_id: self._service(entry, with_index=False) for service_id, entry in self._entries.items()}

    def _set_status(self, entry: _Entry, status: str, output: str, now_s: float) -> frozenset[str]:
        entry.output = output
        if status == entry.status:
            return _NO_NAMES
        entry.status = status
        entry.critical_since_s = now_s if status == "critical" else None
        names = frozenset({entry.definition.name})
        self._bump(names)
        entry.modified_index = self._index
        return names

    def _bump(self, names: frozenset[str]) -> None:
        self._index += 1
        for name in names:
            self._name_index[name] = self._index

    def _of_check(self, check_id: str) -> _Entry | None:
        return self._entries.get(self._owners.get(check_id, ""))

    def _row(self, entry: _Entry) -> dict[str, Any]:
        check = entry.definition.check
        return {
            "Node": {
                "ID": "",
                "Node": self._node_name,
                "Address": "127.0.0.1",
                "Datacenter": DATACENTER,
                "Meta": {},
            },
            "Service": self._service(entry, with_index=True),
            "Checks": [self._check(entry, check)] if check else [],
        }

    def _service(self, entry: _Entry, *, with_index: bool) -> dict[str, Any]:
        definition = entry.definition
        service: dict[str, Any] = {
            "ID": definition.service_id,
            "Service": definition.name,
            "Tags": list(definition.tags),
            "Address": definition.address,
            "Meta": dict(definition.meta),
            "Port": definition.port,
            "Weights": {"Passing": definition.weights[0], "Warning": definition.weights[1]},
        }
        if with_index:
            service |= {"CreateIndex": entry.created_index, "ModifyIndex": entry.modified_index}
        return service

    def _check(self, entry: _Entry, check: CheckSpec) -> dict[str, Any]:
        return {
            "Node": self._node_name,
            "CheckID": check.check_id,
            "Name": check.name,
            "Status": entry.status,
            "Output": entry.output,
            "ServiceID": entry.definition.service_id,
            "ServiceName": entry.definition.name,
            "Type": "ttl" if check.ttl_s else "http",
            "ModifyIndex": entry.modified_index,
        }


def _removal_due_s(entry: _Entry) -> float | None:
    check = entry.definition.check
    if check is None or check.deregister_after_s is None or entry.critical_since_s is None:
        return None
    return entry.critical_since_s + check.deregister_after_s
