"""What `mesh-agent doctor` makes of what it sees: each fault has its cause and its fix."""

import pytest

from agent.cli import checks
from agent.cli.checks import Answer, Finding, Status

OK = Answer(200, clock_s=0.2)
GONE = Answer(unreachable="it refuses the connection")
CONSUL = "http://consul:8500"
FOLLOWED = {"mode": "consul", "up": True, "registered": True}
GOOD = [
    checks.settings("", ()),
    checks.port("http://h:1", OK, port_is_free=False),
    checks.host("h", OK),
    checks.token(OK, given=True),
    checks.token(OK, given=False),
    checks.clock(OK),
    checks.dns({"h": ""}),
    checks.dns({}),
    checks.tls([("MESH_TLS_*", "", 90.0)]),
    checks.tls([]),
    checks.commands([], 2),
    checks.consul(CONSUL, "", True, {"service:write": True}),
    checks.consul(CONSUL, "", True, {}),
    checks.discovery({"mode": "off"}),
    checks.discovery(FOLLOWED),
    checks.discovery(FOLLOWED | {"sources": [{"name": "dc2", "up": True}]}),
    checks.advertised("http://h:1/mcp", {"b": ""}),
    checks.links([{"name": "b", "connected": True, "state": "ready"}, {"name": "lazy", "state": "idle"}]),
    checks.name("a", [{"name": "b", "kind": "name_taken"}]),
    checks.name("a", [{"name": "b", "kind": "own_earlier_name"}]),
]


@pytest.mark.parametrize("finding", GOOD, ids=lambda one: one.cause)
def test_what_is_good_needs_no_fix(finding: Finding) -> None:
    assert (finding.status, finding.fix) == (Status.OK, "")


@pytest.mark.parametrize(
    ("finding", "cause", "fix"),
    [
        (checks.settings("PORT: no number", ()), "PORT: no number", "change"),
        (checks.port("http://h:1", GONE, port_is_free=True), "no program listens", "mesh-agent run"),
        (checks.port("http://h:1", GONE, port_is_free=False), "does not answer as a node", "another PORT"),
        (checks.port("http://h:1", GONE, port_is_free=None), "it refuses the connection", "firewalls"),
        (checks.host("h", Answer(421)), "no requests for the host h", "MESH_ALLOWED_HOSTS"),
        (checks.token(Answer(401), given=True), "does not know the token", "compare"),
        (checks.token(Answer(401), given=False), "wants a token", "MESH_TOKEN"),
        (checks.token(Answer(403), given=True), "does not allow", "--scope read"),
        (checks.clock(Answer(200, clock_s=-40.0)), "40 s behind", "NTP"),
        (checks.dns({"h": "cannot be resolved", "i": ""}), "h: cannot be resolved", "name server"),
        (checks.tls([("MESH_TLS_*", "is no PEM", None)]), "is no PEM", "MESH_TLS_CA"),
        (checks.tls([("MESH_LISTEN_*", "", -1.0), ("MESH_TLS_*", "", 90.0)]), "MESH_LISTEN_*", "renew"),
        (checks.commands(["server a: not found"], 1), "server a: not found", "servers file"),
        (checks.consul(CONSUL, "it refuses", False, {}), "it refuses", "CONSUL_HTTP_ADDR"),
        (checks.consul(CONSUL, "", False, {}), "has no leader", "consul members"),
        (checks.consul(CONSUL, "", True, "ACL not found"), "ACL not found", "mesh-node.hcl"),
        (checks.consul(CONSUL, "", True, {"node:read": False, "a": True}), "lacks node:read", "mesh-node.hcl"),
        (checks.discovery({"mode": "consul", "up": False, "last_error": "gone"}), "is down: gone", "consul"),
        (checks.discovery({"mode": "consul", "up": True}), "not registered", "service:write"),
        (
            checks.discovery({"mode": "consul", "up": True, "registered": True, "filtered_by_acls": True}),
            "lacks node:read",
            "mesh-node.hcl",
        ),
        (checks.advertised("http://h:1/mcp", {"b": "refused", "c": ""}), "b: refused", "MESH_ADVERTISE_ADDRESS"),
        (checks.name("a", [{"name": "a", "kind": "name_taken", "detail": "a-2"}]), "a-2", "MESH_NODE_NAME"),
        (checks.name("a", [{"name": "b", "kind": "own_id_elsewhere"}]), "own_id_elsewhere", "state folder"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_fault_has_its_cause_and_its_fix(finding: Finding, cause: str, fix: str) -> None:
    assert finding.status is Status.FAULT
    assert cause in finding.cause
    assert fix in finding.fix


@pytest.mark.parametrize(
    "finding",
    [
        checks.settings("", ("MESH_X is not known",)),
        checks.clock(Answer(200, clock_s=7.0)),
        checks.tls([("MESH_LISTEN_*", "", 3.0)]),
        checks.discovery(FOLLOWED | {"sources": [{"name": "dc2", "up": False, "last_error": "it is cut off"}]}),
        checks.discovery(FOLLOWED | {"sources": [{"name": "dc2", "up": True, "filtered_by_acls": True}]}),
        checks.links([{"name": "b", "connected": False, "state": "backoff", "last_error": "it refuses"}]),
    ],
    ids=lambda one: one.cause,
)
def test_what_will_be_a_fault_is_a_warning_now(finding: Finding) -> None:
    assert finding.status is Status.WARNING
    assert finding.fix


@pytest.mark.parametrize(
    "finding",
    [
        checks.token(Answer(500), given=True),
        checks.clock(Answer(200)),
        checks.advertised("http://h:1/mcp", {}),
        checks.advertised("http://h:1/mcp", {}, {"b": "it timed out"}),
    ],
    ids=lambda one: one.cause,
)
def test_what_could_not_be_seen_is_skipped_and_not_good(finding: Finding) -> None:
    assert finding.status is Status.SKIPPED


def test_one_peer_that_says_nothing_leaves_the_word_to_the_others() -> None:
    silent = {"b": "it timed out"}
    assert checks.advertised("http://h:1/mcp", {"c": ""}, silent).status is Status.OK
    assert "b does not say (it timed out)" in checks.advertised("http://h:1/mcp", {}, silent).cause
