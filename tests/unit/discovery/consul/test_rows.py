"""From Consul's rows to a catalog, with rows that other programs wrote."""

import json
from collections.abc import Iterable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.consul.rows import RowReader, parse_row, split_rows, worst_health
from discovery.model import Catalog, CatalogUnavailable, Health, InstanceKey


def parse_catalog(rows: Iterable[Any]) -> tuple[Catalog, int]:
    return RowReader().read([json.dumps(row).encode() for row in rows])


def row(**service: Any) -> dict[str, Any]:
    return {
        "Node": {"Node": "n1", "Address": "10.0.0.1", "Datacenter": "dc1", "ID": "x"},
        "Service": {"ID": "a", "Port": 8000, "Address": "", "Meta": {"k": "v"}, "Tags": ["t"]} | service,
        "Checks": [{"Status": "passing"}, {"Status": "warning"}],
    }


def test_a_row_becomes_an_instance_with_the_nodes_address_when_it_has_none() -> None:
    instance = parse_row(row())
    assert instance is not None
    assert instance.key == InstanceKey("dc1", "n1", "a")
    assert (instance.address, instance.port, instance.health) == ("10.0.0.1", 8000, Health.WARNING)
    assert (dict(instance.meta), instance.tags) == ({"k": "v"}, ("t",))


def test_maintenance_is_a_reason_and_says_nothing_of_the_health() -> None:
    node = {"CheckID": "_node_maintenance", "Status": "critical", "Notes": "new\n disks"}
    service = {"CheckID": "_service_maintenance:a", "Status": "critical"}
    critical = {"CheckID": "service:a", "Status": "critical"}
    seen = [parse_row(row() | {"Checks": checks}) for checks in ([], [node], [node, service, {}], [service, critical])]
    assert [one.maintenance for one in seen if one] == [
        "",
        "new disks",
        "new disks; no reason given",
        "no reason given",
    ]
    assert [one.health.value for one in seen if one] == ["passing", "passing", "critical", "critical"]


def test_what_is_bad_has_a_name_and_its_output_on_one_line() -> None:
    checks = [
        {"CheckID": "service:a", "Name": "mesh node", "Status": "critical", "Output": "TTL\n expired"},
        {"CheckID": "disk", "Status": "critical"},
        {"Status": "passing", "Output": "fine"},
    ]
    seen = [parse_row(row() | {"Checks": some}) for some in (checks, checks[:1], checks[2:])]
    assert [one.trouble for one in seen if one] == [
        "mesh node: TTL expired; disk: no output",
        "mesh node: TTL expired",
        "",
    ]
    other = parse_row(row() | {"Checks": [checks[0] | {"Output": "other"}]})
    assert other == seen[1]  # Another output is no news for the mesh.


@pytest.mark.parametrize("kind", ["connect-proxy", "mesh-gateway", "ingress-gateway", "terminating-gateway", 7])
def test_a_proxy_or_gateway_of_consuls_own_mesh_is_no_server(kind: Any) -> None:
    assert parse_row(row(Kind=kind)) is None
    assert parse_row(row(Kind="")) is not None


@pytest.mark.parametrize(
    ("service", "port"),
    [
        ({"Port": 0, "Ports": [{"Name": "admin", "Port": 1, "Default": True}, {"Name": "mcp", "Port": 2}]}, 2),
        ({"Port": 0, "Ports": [{"Name": "admin", "Port": 1, "Default": True}, {"Name": "web", "Port": 2}]}, 1),
        ({"Port": 0, "Ports": [{"Name": "web", "Port": 2}]}, 0),
        ({"Port": 3, "Ports": [{"Name": "mcp", "Port": 2}, {"Name": "web", "Port": 3, "Default": True}]}, 2),
        ({"Port": 3, "Ports": [{"Name": "web", "Port": 2}]}, 3),
        ({"Port": 0, "Ports": None}, 0),
        ({"Port": 0, "Ports": [7]}, 0),
    ],
)
def test_of_several_ports_the_one_named_mcp_is_dialled_or_the_default_one(service: dict[str, Any], port: int) -> None:
    seen = parse_row(row(**service))
    assert seen is not None
    assert seen.port == port


def test_an_entry_without_a_port_is_kept_for_the_status_to_show() -> None:
    bare = row()
    del bare["Service"]["Port"]  # As newer versions of Consul write a 0.
    seen = parse_row(bare)
    assert seen is not None
    assert seen.port == 0


def test_a_body_is_cut_into_rows_without_being_parsed_and_a_foreign_one_is_parsed() -> None:
    tricky = row(Meta={"k": '},{"Node":{', "l": "\\"})
    rows = [row(ID="a"), tricky, row(ID="c")]
    compact = orjson.dumps(rows) + b"\n"
    assert [orjson.loads(one) for one in split_rows(compact)] == rows
    assert split_rows(orjson.dumps(rows, option=orjson.OPT_INDENT_2)) == split_rows(compact)
    assert split_rows(b"[]") == []
    assert list(map(orjson.loads, split_rows(b'[null, {"Service": 1}]'))) == [None, {"Service": 1}]
    for broken in (b"", b"null", b"{}", b"<html>", compact[:50]):
        with pytest.raises(CatalogUnavailable):
            split_rows(broken)
    with pytest.raises(CatalogUnavailable):
        RowReader().read(split_rows(b'[{"Node":{"Node":"n" oops }]'))


def test_a_row_that_has_not_changed_is_not_parsed_again() -> None:
    reader = RowReader()
    first, _ = reader.read([orjson.dumps(row(ID=name)) for name in "abc"])
    second, _ = reader.read([orjson.dumps(row(ID=name, Port=8001 if name == "b" else 8000)) for name in "cba"])
    assert [a is b for a, b in zip(first.instances, second.instances, strict=True)] == [True, False, True]
    assert second.instances[1].port == 8001


def test_an_address_of_its_own_wins() -> None:
    instance = parse_row(row(Address="10.0.0.9"))
    assert instance is not None
    assert instance.address == "10.0.0.9"


@pytest.mark.parametrize(
    "broken",
    [
        None,
        [],
        "row",
        {},
        {"Node": {"Node": "n1"}},
        row(Port="8000"),
        row(Port=70_000),
        row(Port=-1),
        row(ID=""),
        row(ID=None),
        row(Address=7) | {"Node": {"Node": "n1"}},
        row() | {"Node": {"Node": ""}},
        row() | {"Node": None},
    ],
)
def test_a_row_that_identifies_or_reaches_no_node_is_left_out_alone(broken: Any) -> None:
    catalog, broken_rows = parse_catalog([broken, row()])
    assert [instance.key.service_id for instance in catalog.instances] == ["a"]
    assert broken_rows == 1


@pytest.mark.parametrize(
    ("weights", "checks", "weight"),
    [
        ({"Passing": 3, "Warning": 2}, ["passing"], 3),
        ({"Passing": 3, "Warning": 2}, ["passing", "warning"], 2),
        ({"Passing": 3, "Warning": 0}, ["warning"], 1),
        ({"Passing": 0}, [], 1),
        ({"Passing": "3"}, [], 1),
        ({"Passing": True}, [], 1),
        ({}, [], 1),
        ([3], [], 1),
        (None, [], 1),
    ],
)
def test_the_weight_is_that_of_its_health_and_one_where_none_is_usable(
    weights: Any, checks: list[str], weight: int
) -> None:
    instance = parse_row(row(Weights=weights) | {"Checks": [{"Status": status} for status in checks]})
    assert instance is not None
    assert instance.weight == weight


def test_missing_meta_and_tags_are_empty_and_foreign_types_in_them_are_dropped() -> None:
    bare, mixed = parse_row(row(Meta=None, Tags=None)), parse_row(row(Meta={"a": 1, "b": "x"}, Tags=[1, "t", None]))
    assert bare is not None
    assert mixed is not None
    assert (dict(bare.meta), bare.tags) == ({}, ())
    assert (dict(mixed.meta), mixed.tags) == ({"b": "x"}, ("t",))


def test_instances_come_sorted_so_that_equal_content_is_equal() -> None:
    rows = [row(ID=name) for name in "cab"]
    assert parse_catalog(rows) == parse_catalog(reversed(rows))


@pytest.mark.parametrize(
    ("statuses", "health"),
    [
        ([], Health.PASSING),
        (["passing"], Health.PASSING),
        (["warning", "passing"], Health.WARNING),
        (["passing", "critical", "warning"], Health.CRITICAL),
        (["maintenance"], Health.CRITICAL),
        ([None], Health.CRITICAL),
    ],
)
def test_the_worst_check_counts(statuses: list[str | None], health: Health) -> None:
    assert worst_health([{"Status": status} for status in statuses]) is health


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["Node", "Service", "Checks", "ID", "Port", "Meta", "Tags", "Address", "Status"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(st.lists(json_values, max_size=4))
def test_no_json_can_break_the_parser(rows: list[Any]) -> None:
    catalog, broken_rows = parse_catalog(rows)
    assert len(catalog.instances) + broken_rows <= len(rows)


def test_the_address_for_the_wide_area_is_that_of_another_datacentre_alone() -> None:
    tagged = row(TaggedAddresses={"wan": {"Address": "198.51.100.1", "Port": 1}})
    node = row() | {"Node": {"Node": "n1", "Address": "10.0.0.1", "TaggedAddresses": {"wan": "198.51.100.2"}}}
    seen = [
        (one.address, one.far) for text in (tagged, node) for far in (False, True) if (one := parse_row(text, far=far))
    ]
    assert seen == [("10.0.0.1", False), ("198.51.100.1", True), ("10.0.0.1", False), ("198.51.100.2", True)]
