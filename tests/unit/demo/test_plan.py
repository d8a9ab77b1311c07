"""The demonstration's decisions: what is started, when the mesh is complete, what it prints."""

import ast
from pathlib import Path

from agent.config.load import load_settings
from agent.config.servers_file import check_servers
from agent.demo.plan import (
    EXPECTED_TOOLS,
    Seen,
    instructions,
    missing,
    node_environment,
    plan_nodes,
    read_status,
    servers_json,
    what_to_try,
)
from agent.model import ServerScope

PLANS = plan_nodes([4001, 4002, 4003], Path("/demo"))
COMPLETE = Seen("ready", 2, EXPECTED_TOOLS)


def test_each_node_has_a_port_a_folder_and_servers_that_our_own_parser_takes() -> None:
    assert [plan.url for plan in PLANS] == [f"http://127.0.0.1:{port}" for port in (4001, 4002, 4003)]
    assert len({plan.folder for plan in PLANS}) == 3
    parsed = {plan.name: check_servers(servers_json(plan, "python", "/code"), plan.servers_path, {}) for plan in PLANS}
    assert not [file for file in parsed.values() if file.notes or file.left_out]
    scopes = {(name, spec.name): spec.scope for name, file in parsed.items() for spec in file.servers}
    assert scopes["node-b", "dice"] is scopes["node-c", "dice"] is ServerScope.SERVICE
    assert scopes["node-c", "notes"] is ServerScope.NODE


def test_environment_of_a_node_is_good_settings_and_drops_the_users_own() -> None:
    environ = {"PATH": "/bin", "MESH_TOKEN": "x" * 20, "CONSUL_HTTP_ADDR": "http://elsewhere", "PORT": "1", "HOST": "h"}
    made = node_environment(PLANS[0], environ, 4999)
    settings = load_settings({}, made)
    assert made["PATH"] == "/bin"
    assert (settings.host, settings.port, settings.node_name) == ("127.0.0.1", 4001, "node-a")
    assert (settings.discovery, settings.embedded_port, settings.token) == ("embedded", 4999, None)
    assert not settings.consul.explicit
    assert not settings.warnings


def test_mesh_is_complete_when_all_see_both_peers_and_every_tool() -> None:
    assert missing({"node-a": COMPLETE, "node-b": COMPLETE, "node-c": COMPLETE}) == []
    waits = missing({"node-a": Seen(), "node-b": Seen("ready", 1, EXPECTED_TOOLS), "node-c": Seen("ready", 2)})
    assert waits == ["node-a starts", "node-b sees 1 of 2 peers", "node-c has no clock__convert yet"]


def test_status_is_read_from_what_a_node_answers_and_from_nonsense() -> None:
    data = {"self": {"state": "ready"}, "peers": [{"connected": True}, {"connected": False}, None]}
    assert read_status(data, {"tools": [{"name": "a"}]}) == Seen("ready", 1, frozenset({"a"}))
    assert read_status(None, None).connected == 0


def test_instructions_name_every_url_and_can_be_pasted() -> None:
    text = instructions(PLANS, ".venv/bin/mesh-agent", "/env/bin/python")
    assert all(f"{plan.url}/mcp" in text for plan in PLANS)
    assert "claude mcp add --transport http mesh http://127.0.0.1:4001/mcp" in text
    look = "http://127.0.0.1:4001/ in a browser, or .venv/bin/mesh-agent status --url http://127.0.0.1:4001"
    assert f"Look:    {look}\n" in text
    _, program = text.split("/env/bin/python, with these lines:\n\n")
    calls = [node for node in ast.walk(ast.parse(program)) if isinstance(node, ast.Call)]
    assert [ast.literal_eval(call.args[1]) for call in calls if len(call.args) == 2] == [{"sides": 20, "count": 3}]


def test_what_to_try_names_the_node_to_end_and_where_it_is_said_who_answered() -> None:
    text = what_to_try(PLANS[0], PLANS[1], 77, "mesh-agent")
    assert "kill -9 77     # ends node-b" in text
    assert "mesh-agent logs --url http://127.0.0.1:4001" in text
