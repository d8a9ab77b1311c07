"""The example servers: what they answer line by line, and one real process with a real MCP client."""

import io
import json
import sys
from typing import Any

import pytest
from fastmcp import Client
from fastmcp.client.transports import StdioTransport

from agent.examples import clock, dice, notes
from agent.examples.stdio import Server, reply_to, serve


def ask(server: Server, method: str, **params: Any) -> dict[str, Any]:
    reply = reply_to(server, json.dumps({"jsonrpc": "2.0", "id": 7, "method": method, "params": params}))
    assert reply is not None
    assert reply["id"] == 7
    return reply


def call(server: Server, name: str, **arguments: Any) -> dict[str, Any]:
    result: dict[str, Any] = ask(server, "tools/call", name=name, arguments=arguments)["result"]
    return result


def test_clock_converts_between_zones_and_takes_a_bare_time_as_utc() -> None:
    for time in ("2026-11-22T12:00:00", "2026-11-22T13:00:00+01:00", "2026-11-22T12:00:00Z"):
        result = call(clock.SERVER, "convert", time=time, zone="Asia/Taipei")
        assert result["structuredContent"] == {"time": "2026-11-22T20:00:00+08:00", "zone": "Asia/Taipei"}


@pytest.mark.parametrize("zone", ["", "Nowhere/At_All", "../etc/passwd", "/etc/passwd", "x\0y"])
def test_clock_refuses_what_is_no_zone(zone: str) -> None:
    assert call(clock.SERVER, "now", zone=zone)["isError"]


def test_dice_with_one_seed_roll_the_same() -> None:
    first = call(dice.SERVER, "roll", sides=20, count=5, seed=1)["structuredContent"]
    assert first == call(dice.SERVER, "roll", sides=20, count=5, seed=1)["structuredContent"]
    assert first["total"] == sum(first["rolls"])
    assert all(1 <= roll <= 20 for roll in first["rolls"])


@pytest.mark.parametrize(
    "arguments",
    [{"sides": 1}, {"count": 0}, {"count": 101}, {"sides": "6"}, {"sides": True}, {"other": 1}, {"count": 1.5}],
)
def test_dice_refuse_arguments_that_make_no_sense_with_a_reason(arguments: dict[str, Any]) -> None:
    result = call(dice.SERVER, "roll", **arguments)
    assert result["isError"]
    assert next(iter(arguments)) in result["content"][0]["text"]


def test_note_is_a_tools_result_a_resource_and_part_of_the_prompt() -> None:
    assert call(notes.SERVER, "add", title="to buy", text="milk")["structuredContent"]["notes"] >= 1
    note = call(notes.SERVER, "read", title="to buy")["structuredContent"]
    assert (note["text"], note["uri"]) == ("milk", "notes://note/to%20buy")
    assert "to buy" in call(notes.SERVER, "list")["structuredContent"]["titles"]
    assert ask(notes.SERVER, "resources/read", uri=note["uri"])["result"]["contents"][0]["text"] == "milk"
    assert "to buy" in ask(notes.SERVER, "resources/read", uri="notes://all")["result"]["contents"][0]["text"]
    prompt = ask(notes.SERVER, "prompts/get", name="summarise", arguments={"topic": "food"})["result"]
    assert "- to buy: milk" in prompt["messages"][0]["content"]["text"]


def test_unknown_things_are_errors_of_the_protocol() -> None:
    assert ask(clock.SERVER, "server/discover")["error"]["code"] == -32601
    assert ask(clock.SERVER, "tools/call", name="none")["error"]["code"] == -32602
    assert ask(clock.SERVER, "resources/read", uri="notes://all")["error"]["code"] == -32601
    assert ask(notes.SERVER, "resources/read", uri="notes://note/none")["error"]["code"] == -32002
    assert ask(notes.SERVER, "prompts/get", name="none")["error"]["code"] == -32602


def test_notifications_and_blank_lines_get_no_answer_and_garbage_gets_one() -> None:
    lines = ["\n", '{"jsonrpc":"2.0","method":"notifications/initialized"}\n', "[]\n", "garbage\n"]
    ping = '{"jsonrpc":"2.0","id":1,"method":"ping"}\n'
    sink = io.StringIO()
    serve(clock.SERVER, io.StringIO("".join([*lines, ping])), sink)
    answers = [json.loads(line) for line in sink.getvalue().splitlines()]
    assert [answer.get("error", {}).get("code") for answer in answers] == [-32700, None]


@pytest.mark.parametrize("name", ["clock", "dice", "notes"])
async def test_example_is_a_real_server_for_a_real_client(name: str) -> None:
    wanted = {"clock": {"now", "convert"}, "dice": {"roll"}, "notes": {"add", "list", "read"}}
    transport = StdioTransport(sys.executable, ["-m", f"agent.examples.{name}"], keep_alive=False)
    async with Client(transport) as client:
        assert {tool.name for tool in await client.list_tools()} == wanted[name]
        assert bool(await client.list_resources()) == (name == "notes")
