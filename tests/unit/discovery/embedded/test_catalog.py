"""The embedded catalog's definitions and state, without a socket."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from discovery.consul.rows import RowReader
from discovery.embedded.catalog import LocalCatalog, first_index_at
from discovery.embedded.definition import Definition, Refused, parse_definition, parse_duration_s

TTL_BODY = {
    "ID": "a-1",
    "Name": "mcp-node",
    "Port": 8000,
    "Meta": {"k": "v"},
    "Tags": ["t"],
    "Check": {"CheckID": "service:a-1", "TTL": "15s", "Status": "passing", "DeregisterCriticalServiceAfter": "10m"},
}


def definition(service_id: str = "a-1", name: str = "mcp-node", **check: Any) -> Definition:
    fields = {"CheckID": f"service:{service_id}", "TTL": "15s", "Status": "passing"} | check
    return parse_definition({"ID": service_id, "Name": name, "Port": 8000, "Check": fields})


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("15s", 15.0), ("1m30s", 90.0), ("500ms", 0.5), ("1.5h", 5400.0), ("250us", 0.00025), ("600s", 600.0)],
)
def test_gos_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "15", "s", "15 s", "-5s", "soon", "5s5", "1e3s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(Refused) as refused:
        parse_duration_s(text)
    assert refused.value.status == 400


def test_keys_are_read_in_any_case_and_the_id_defaults_to_the_name() -> None:
    lower = parse_definition({"name": "x", "port": 1, "check": {"ttl": "1s"}})
    assert (lower.service_id, lower.name, lower.port) == ("x", "x", 1)
    assert lower.check is not None
    assert (lower.check.check_id, lower.check.status, lower.check.ttl_s) == ("service:x", "critical", 1.0)


def test_removal_of_critical_services_is_never_asked_for_below_a_minute() -> None:
    check = definition(DeregisterCriticalServiceAfter="10s").check
    assert check is not None
    assert check.deregister_after_s == 60.0


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {},
        {"Name": ""},
        {"Name": 7},
        {"Name": "x" * 300},
        {"Name": "x", "Port": "80"},
        {"Name": "x", "Port": True},
        {"Name": "x", "Port": 65_536},
        {"Name": "x", "Proxy": {}},
        {"Name": "x", "Meta": {"a b": "c"}},
        {"Name": "x", "Meta": {"a": 1}},
        {"Name": "x", "Meta": {str(number): "" for number in range(65)}},
        {"Name": "x", "Meta": {"a": "v" * 513}},
        {"Name": "x", "Tags": "t"},
        {"Name": "x", "Tags": [1]},
        {"Name": "x", "Check": {}},
        {"Name": "x", "Check": []},
        {"Name": "x", "Check": {"TTL": "1s", "HTTP": "http://h"}},
        {"Name": "x", "Check": {"HTTP": "http://h"}},
        {"Name": "x", "Check": {"HTTP": "file:///etc/passwd", "Interval": "1s"}},
        {"Name": "x", "Check": {"HTTP": "http://h", "Interval": "1s", "Method": "DELETE"}},
        {"Name": "x", "Check": {"TTL": "0s"}},
        {"Name": "x", "Check": {"TTL": "1s", "Status": "fine"}},
        {"Name": "x", "Check": {"Args": ["rm"], "Interval": "1s"}},
    ],
)
def test_a_definition_that_is_not_understood_is_refused_whole(body: Any) -> None:
    with pytest.raises(Refused) as refused:
        parse_definition(body)
    assert refused.value.status == 400


def test_our_own_parser_reads_the_rows() -> None:
    catalog = LocalCatalog("machine")
    catalog.register(parse_definition(TTL_BODY), now_s=0.0)
    seen, broken_rows = RowReader().read(map(orjson.dumps, catalog.health_rows("mcp-node")))
    (instance,) = seen.instances
    assert broken_rows == 0
    assert (instance.key.node, instance.key.service_id, instance.address) == ("machine", "a-1", "127.0.0.1")
    assert (dict(instance.meta), instance.tags, instance.port) == ({"k": "v"}, ("t",), 8000)


def test_an_identical_registration_bumps_nothing_and_wakes_no_query() -> None:
    catalog = LocalCatalog("machine")
    assert catalog.register(definition(), now_s=0.0) == {"mcp-node"}
    index = catalog.index_of("mcp-node")
    assert catalog.register(definition(), now_s=1.0) == frozenset()
    assert catalog.index_of("mcp-node") == index
    assert catalog.next_expiry_s() == 16.0  # the TTL runs anew all the same


def test_a_ttl_lapses_and_a_beat_brings_it_back() -> None:
    catalog = LocalCatalog("machine")
    catalog.register(definition(), now_s=0.0)
    assert catalog.expire(14.9) == frozenset()
    assert catalog.expire(15.0) == {"mcp-node"}
    assert catalog.health_rows("mcp-node", passing_only=True) == []
    assert catalog.beat("service:a-1", "passing", "", 20.0) == {"mcp-node"}
    assert catalog.beat("service:a-1", "passing", "", 21.0) == frozenset()
    assert len(catalog.health_rows("mcp-node", passing_only=True)) == 1


def test_what_stays_critical_is_removed_when_its_time_is_over() -> None:
    catalog = LocalCatalog("machine")
    catalog.register(definition(DeregisterCriticalServiceAfter="60s"), now_s=0.0)
    catalog.expire(15.0)
    assert catalog.next_expiry_s() == 75.0
    assert catalog.expire(74.0) == frozenset()
    assert catalog.expire(75.0) == {"mcp-node"}
    assert catalog.agent_services() == {}
    assert catalog.next_expiry_s() is None
    with pytest.raises(Refused, match="does not have associated TTL"):
        catalog.beat("service:a-1", "passing", "", 76.0)


def test_a_service_that_changes_its_name_wakes_the_readers_of_both() -> None:
    catalog = LocalCatalog("machine")
    catalog.register(definition("a-1", "old"), now_s=0.0)
    assert catalog.register(definition("a-1", "new"), now_s=1.0) == {"old", "new"}
    assert catalog.health_rows("old") == []


def test_the_catalog_has_a_last_seat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("discovery.embedded.catalog.SERVICES_MAX", 2)
    catalog = LocalCatalog("machine")
    for number in (1, 2):
        catalog.register(definition(f"a-{number}"), now_s=0.0)
    with pytest.raises(Refused, match="full"):
        catalog.register(definition("a-3"), now_s=0.0)
    catalog.register(definition("a-2", DeregisterCriticalServiceAfter="2m"), now_s=0.0)


@given(st.floats(1e9, 4e9), st.floats(0.1, 1e7))
def test_a_later_server_starts_lower_than_an_earlier_one(start_s: float, lived_s: float) -> None:
    assert first_index_at(start_s + lived_s) < first_index_at(start_s)


class Index(RuleBasedStateMachine):
    """The index of a name moves exactly when its rows move, and never back."""

    def __init__(self) -> None:
        super().__init__()
        self.catalog = LocalCatalog("machine")
        self.now_s = 0.0
        self.last: dict[str, tuple[int, object]] = {}

    @rule(service=st.sampled_from("ab"), name=st.sampled_from("xy"), ttl=st.sampled_from(["15s", "30s"]))
    def register(self, service: str, name: str, ttl: str) -> None:
        self.catalog.register(definition(service, name, TTL=ttl, DeregisterCriticalServiceAfter="1m"), self.now_s)

    @rule(service=st.sampled_from("ab"))
    def deregister(self, service: str) -> None:
        if service in self.catalog.agent_services():
            self.catalog.deregister(service)

    @rule(service=st.sampled_from("ab"), status=st.sampled_from(["passing", "warning", "critical"]))
    def beat(self, service: str, status: str) -> None:
        if service in self.catalog.agent_services():
            self.catalog.beat(f"service:{service}", status, "", self.now_s)

    @rule(seconds=st.floats(0.1, 40))
    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds
        self.catalog.expire(self.now_s)

    @invariant()
    def index_follows_content(self) -> None:
        for name in "xy":
            content, _ = RowReader().read(map(orjson.dumps, self.catalog.health_rows(name)))
            index = self.catalog.index_of(name)
            last_index, last_content = self.last.get(name, (index, content))
            assert index >= last_index
            assert content == last_content or index > last_index
            self.last[name] = (index, content)


TestIndex = Index.TestCase
