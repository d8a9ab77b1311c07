"""The stdio client against a real FastMCP child and against scripted ones: calls, eras, deaths, what is left after."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import orjson
import pytest

from agent.client.connect import McpClient, open_client
from agent.client.legacy_tasks import LegacyTaskClient
from agent.client.protocol import Request
from agent.client.sessions.dual_era import DualEraRouter
from agent.client.stdio import process as stdio_child
from agent.client.stdio.client import StdioClient
from agent.client.stdio.environment import child_environment
from agent.errors import CallNotSent, CallOutcomeUnknown, CallTimedOut, ProtocolBroken, RpcError, Unreachable
from agent.model import Era, Json, StdioTarget
from tests.waiting import eventually

SERVERS = Path(__file__).parent / "servers"


def scripted(*flags: str) -> StdioTarget:
    return StdioTarget(sys.executable, (str(SERVERS / "scripted_stdio.py"), *flags))


def call(tool: str, **arguments: object) -> Json:
    return {"name": tool, "arguments": arguments}


def pipes_of(client: McpClient) -> StdioClient:
    """The client to the child itself."""
    inner = client._client if isinstance(client, LegacyTaskClient) else client
    inner = inner._shared if isinstance(inner, DualEraRouter) else inner
    assert isinstance(inner, StdioClient)
    return inner


def child_of(client: McpClient) -> int:
    pid = pipes_of(client).child.pid
    assert pid is not None
    return pid


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


async def test_a_real_fastmcp_child_speaks_the_modern_era_and_sees_no_secret_of_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", "hunter2")
    target = StdioTarget(
        sys.executable, (str(SERVERS / "fastmcp_server.py"), "listen"), env=(("OWN_KEY", "mine"),), cwd=str(Path.cwd())
    )
    changes: asyncio.Queue[str] = asyncio.Queue()
    seen: list[float] = []

    async def on_notification(_: str, params: Json) -> None:
        assert params["progressToken"] == "tok"
        seen.append(params["progress"])

    async with open_client(target) as client:
        assert client.server_info.era is Era.MODERN
        assert client.server_info.server_info["name"] == "fixture"
        await client.probe(10)
        for name, value in (("DATABASE_PASSWORD", "(absent)"), ("OWN_KEY", "mine"), ("PATH", os.environ["PATH"])):
            result = await client.request(Request.within("tools/call", call("environment", name=name), timeout_s=10))
            assert result["content"][0]["text"] == value
        params = {**call("count", to=20), "_meta": {"progressToken": "tok"}}
        await client.request(Request.within("tools/call", params, timeout_s=10, on_notification=on_notification))
        assert seen == list(range(20))
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            listener = group.create_task(client.listen(changes.put_nowait), name="listen")
            assert await changes.get() == "listening"
            await client.request(Request.within("tools/call", call("announce"), timeout_s=10))
            assert await changes.get() == "tools"
            listener.cancel()


@pytest.mark.parametrize(
    ("flags", "era"),
    [
        (("modern",), Era.MODERN),
        ((), Era.LEGACY),
        (("silent",), Era.LEGACY),
        (("dies",), Era.LEGACY),
        (("quits",), Era.LEGACY),
        (("late",), Era.MODERN),
        (("pins",), Era.LEGACY),
        (("older",), Era.LEGACY),
        (("texts",), Era.LEGACY),
        (("texts", "modern"), Era.MODERN),
        (("silent", "older"), Era.LEGACY),
        (("junk",), Era.LEGACY),
        (("junk", "modern"), Era.MODERN),
    ],
)
async def test_the_era_is_found_out_whatever_the_child_makes_of_the_probe(flags: tuple[str, ...], era: Era) -> None:
    # A child that answers the probe has the time that a busy machine takes to start it.
    probe_wait_s = 10.0 if "modern" in flags else 0.5
    async with open_client(scripted(*flags), connect_timeout_s=probe_wait_s) as client:
        assert client.server_info.era is era
        result = await client.request(Request.within("tools/call", call("echo", x=1), timeout_s=10))
        assert result["params"]["arguments"] == {"x": 1}
        await client.probe(10)


async def test_lines_that_are_no_messages_are_counted_and_harm_no_call() -> None:
    async with open_client(scripted("junk", "modern")) as client:
        pipes = pipes_of(client)
        before = pipes.junk_lines
        await client.request(Request.within("tools/call", call("echo"), timeout_s=10))
        assert pipes.junk_lines == before + 3


@pytest.mark.parametrize("tool", ["nan", "deep"])
async def test_an_answer_that_is_no_json_ends_its_call_and_no_other(tool: str) -> None:
    async with open_client(scripted("modern")) as client, asyncio.timeout(10), asyncio.TaskGroup() as group:
        held = group.create_task(client.request(Request.within("tools/call", call("hold"), timeout_s=60)), name="hold")
        with pytest.raises(ProtocolBroken, match="not JSON"):
            await client.request(Request.within("tools/call", call(tool), timeout_s=60))
        await client.request(Request.within("tools/call", call("release"), timeout_s=60))
        await held


async def test_messages_with_odd_ids_and_methods_are_junk_and_what_came_with_them_is_served() -> None:
    async with open_client(scripted("modern")) as client:
        pipes = pipes_of(client)
        before = pipes.junk_lines
        assert (await client.request(Request.within("tools/call", call("odd"), timeout_s=10)))["done"] is True
        assert pipes.junk_lines == before + 5


async def test_answers_in_any_order_find_their_callers() -> None:
    async with open_client(scripted()) as client, asyncio.timeout(20), asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(
                client.request(Request.within("tools/call", call("hold"), timeout_s=15)), name=f"held {n}"
            )
            for n in range(50)
        ]
        last = group.create_task(
            client.request(Request.within("tools/call", call("release"), timeout_s=15)), name="release"
        )
        await last
        ids = [(await task)["id"] for task in tasks]
        assert ids == sorted(ids)
        assert len(set(ids)) == 50


async def test_equal_progress_tokens_of_two_callers_do_not_mix() -> None:
    async def progress_of(client: McpClient, to: int) -> list[int]:
        seen: list[int] = []

        async def on_notification(_: str, params: Json) -> None:
            assert params["progressToken"] == "t"
            seen.append(params["progress"])

        params = {**call("progress", to=to), "_meta": {"progressToken": "t"}}
        await client.request(Request.within("tools/call", params, timeout_s=10, on_notification=on_notification))
        return seen

    async with open_client(scripted()) as client, asyncio.TaskGroup() as group:
        one = group.create_task(progress_of(client, 5), name="five")
        other = group.create_task(progress_of(client, 9), name="nine")
    assert (one.result(), other.result()) == (list(range(5)), list(range(9)))


async def test_progress_that_no_caller_takes_is_dropped_at_the_limit_and_the_result_still_comes() -> None:
    started, released = asyncio.Event(), asyncio.Event()
    taken: list[int] = []

    async def on_notification(_: str, params: Json) -> None:
        taken.append(params["progress"])
        started.set()
        await released.wait()

    async with open_client(scripted()) as client, asyncio.timeout(20), asyncio.TaskGroup() as group:
        pipes = pipes_of(client)
        params = {**call("progress", to=1000), "_meta": {"progressToken": "t"}}
        slow = group.create_task(
            client.request(Request.within("tools/call", params, timeout_s=15, on_notification=on_notification)),
            name="slow",
        )
        await started.wait()
        # Answered after the thousand, by the same child: others do not wait for the slow caller.
        await client.request(Request.within("tools/call", call("echo"), timeout_s=10))
        released.set()
        assert (await slow)["done"] is True
        assert pipes.dropped_notifications == 1000 - len(taken)
        assert 256 <= len(taken) <= 258


async def test_a_big_result_and_big_params_go_through() -> None:
    async with open_client(scripted()) as client:
        result = await client.request(Request.within("tools/call", call("big", size=8_000_000), timeout_s=30))
        assert len(result["text"]) == 8_000_000
        result = await client.request(Request.within("tools/call", call("echo", text="y" * 3_000_000), timeout_s=30))
        assert result["params"]["arguments"]["text"] == "y" * 3_000_000


async def test_a_cancelled_and_a_timed_out_call_are_cancelled_in_the_child() -> None:
    async with open_client(scripted()) as client, asyncio.timeout(20), asyncio.TaskGroup() as group:
        task = group.create_task(client.request(Request.within("tools/call", call("hold"), timeout_s=15)), name="held")
        await client.request(Request.within("tools/call", call("echo"), timeout_s=10))
        task.cancel()
        with pytest.raises(CallTimedOut):
            await client.request(Request.within("tools/call", call("hold"), timeout_s=0.1))
        result = await client.request(Request.within("tools/call", call("cancelled"), timeout_s=10))
        assert len(result["ids"]) == 2


async def test_a_probe_that_is_given_up_is_never_cancelled_since_that_may_end_a_server() -> None:
    async with open_client(scripted("busy")) as client:
        with pytest.raises(Unreachable):
            await client.probe(0.1)
        with pytest.raises(CallTimedOut):
            await client.request(Request.within("tools/call", call("hold"), timeout_s=0.1))
        result = await client.request(Request.within("tools/call", call("cancelled"), timeout_s=10))
        assert len(result["ids"]) == 1, "the call alone"


async def test_the_childs_own_requests_are_answered_without_any_feature() -> None:
    async with open_client(scripted()) as client:
        await client.request(Request.within("tools/call", call("ask"), timeout_s=10))
        answers = (await client.request(Request.within("tools/call", call("answers"), timeout_s=10)))["answers"]
    assert answers[0] == {"jsonrpc": "2.0", "id": "a", "result": {}}
    assert answers[1]["id"] == "b"
    assert answers[1]["error"]["code"] == -32601


async def test_a_legacy_childs_list_changes_reach_each_listener() -> None:
    changes: list[str] = []
    async with open_client(scripted()) as client, asyncio.TaskGroup() as group:
        listening = asyncio.Event()

        def on_change(kind: str) -> None:
            changes.append(kind)
            listening.set()

        listener = group.create_task(client.listen(on_change), name="listen")
        await listening.wait()
        await client.request(Request.within("tools/call", call("changed"), timeout_s=10))
        listener.cancel()
    assert changes == ["listening", "prompts", "resources", "tools"]


async def test_a_modern_child_is_asked_for_a_subscription_and_hears_when_no_subscriber_is_left() -> None:
    changes: asyncio.Queue[str] = asyncio.Queue()
    async with open_client(scripted("modern")) as client, asyncio.timeout(20), asyncio.TaskGroup() as group:
        listener = group.create_task(client.listen(changes.put_nowait), name="listen")
        assert [await changes.get(), await changes.get()] == ["listening", "tools"]
        listener.cancel()
        with pytest.raises(asyncio.CancelledError):
            await listener
        assert len((await client.request(Request.within("tools/call", call("cancelled"), timeout_s=10)))["ids"]) == 1


async def test_a_modern_child_without_subscriptions_is_heard_as_one_of_before_is() -> None:
    heard = asyncio.Queue[str]()
    async with open_client(scripted("late"), connect_timeout_s=0.2) as client, asyncio.TaskGroup() as group:
        assert client.server_info.era is Era.MODERN
        listener = group.create_task(client.listen(heard.put_nowait), name="listen")
        async with asyncio.timeout(20):
            assert await heard.get() == "listening"
        assert not listener.done()
        listener.cancel()


@pytest.mark.parametrize(("tool", "how"), [("exit", "exited with code 7"), ("kill", "was ended by SIGKILL")])
async def test_a_childs_death_fails_every_call_in_flight_and_tells_its_last_words(tool: str, how: str) -> None:
    async with open_client(scripted(), label="cheese shop") as client, asyncio.timeout(20):
        async with asyncio.TaskGroup() as group:
            held = group.create_task(_failure(client, "hold"), name="held")
            fatal = group.create_task(_failure(client, tool), name="fatal")
            listener = group.create_task(_listen_failure(client), name="listen")
        assert all(isinstance(one.result(), CallOutcomeUnknown) for one in (held, fatal))
        assert how in str(fatal.result())
        assert str(fatal.result()).startswith("cheese shop ")
        if tool == "exit":
            assert str(fatal.result()).endswith("its last words: noise; out of cheese")
        assert isinstance(listener.result(), Unreachable)
        assert client.lost.is_set()
        assert how in client.lost_reason
        with pytest.raises(CallNotSent, match=how):
            await client.request(Request.within("tools/call", call("echo"), timeout_s=5))
        with pytest.raises(Unreachable):
            await client.probe(5)


async def _failure(client: McpClient, tool: str) -> Exception:
    try:
        await client.request(Request.within("tools/call", call(tool), timeout_s=15))
    except CallOutcomeUnknown as exc:
        return exc
    raise AssertionError("the call should have failed")


async def _listen_failure(client: McpClient) -> Exception:
    try:
        await client.listen(lambda _: None)
    except Unreachable as exc:
        return exc
    raise AssertionError("unreachable")


async def test_an_endless_line_ends_the_child() -> None:
    async with open_client(scripted()) as client:
        with pytest.raises(CallOutcomeUnknown, match="a line of more than 268435456 bytes"):
            await client.request(Request.within("tools/call", call("endless"), timeout_s=50))
        await client.lost.wait()


@pytest.mark.parametrize("shape", ["id first", "id last"])
async def test_an_answer_that_is_too_large_fails_its_call_and_the_child_and_its_other_calls_go_on(shape: str) -> None:
    async with open_client(scripted(), label="files") as client, asyncio.timeout(50), asyncio.TaskGroup() as group:
        pid = child_of(client)
        held = group.create_task(client.request(Request.within("tools/call", call("hold"), timeout_s=50)), name="hold")
        with pytest.raises(ProtocolBroken, match="files answered with a message of more than 16777216 bytes"):
            await client.request(Request.within("tools/call", call("huge", shape=shape), timeout_s=50))
        await client.request(Request.within("tools/call", call("release"), timeout_s=50))
        await held
        assert child_of(client) == pid
        assert not client.lost.is_set()


async def test_a_too_large_answer_without_a_known_id_fails_the_call_that_is_alone() -> None:
    async with open_client(scripted()) as client:
        with pytest.raises(ProtocolBroken, match="more than 16777216 bytes"):
            await client.request(Request.within("tools/call", call("huge", shape="odd order"), timeout_s=50))


async def test_a_too_large_answer_without_a_known_id_fails_none_of_several_calls_before_its_time() -> None:
    async with open_client(scripted()) as client, asyncio.timeout(50), asyncio.TaskGroup() as group:
        held = group.create_task(client.request(Request.within("tools/call", call("hold"), timeout_s=50)), name="hold")
        with pytest.raises(CallTimedOut):
            await client.request(Request.within("tools/call", call("huge", shape="odd order"), timeout_s=2))
        await client.request(Request.within("tools/call", call("release"), timeout_s=50))
        await held


async def test_a_too_large_note_is_dropped_and_fails_no_call() -> None:
    async with open_client(scripted()) as client:
        answer = await client.request(Request.within("tools/call", call("huge", shape="note"), timeout_s=50))
        assert answer == {"done": True}


async def test_a_child_that_does_not_read_times_out_as_not_sent_once_the_pipe_is_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stdio_child, "STOP_STEP_S", 0.2)
    async with open_client(scripted("stubborn")) as client:
        await client.request(Request.within("tools/call", call("deaf"), timeout_s=10))
        with pytest.raises(CallTimedOut):
            await client.request(Request.within("tools/call", call("echo", text="z" * 1_000_000), timeout_s=0.3))
        with pytest.raises(CallNotSent, match="does not read its input"):
            await client.request(Request.within("tools/call", call("echo"), timeout_s=0.3))


@pytest.mark.parametrize(
    ("target", "fix"),
    [
        (StdioTarget("no-such-command-anywhere"), "install it or give its full path"),
        (StdioTarget(sys.executable, cwd="/no/such/folder"), "create it or change cwd"),
        (StdioTarget(str(SERVERS / "__init__.py")), "chmod"),
        (StdioTarget("nul\0byte"), "cannot be started"),
    ],
)
async def test_a_command_that_cannot_be_started_says_what_to_do(target: StdioTarget, fix: str) -> None:
    with pytest.raises(Unreachable, match=fix):
        async with open_client(target):
            pass


@pytest.mark.parametrize("way", ["crash", "prints"])
async def test_a_child_that_crashes_at_its_start_is_unreachable_with_its_last_words(way: str) -> None:
    with pytest.raises(Unreachable, match=r"exited with code 1; its last words: cannot find my configuration"):
        async with open_client(scripted(way)):
            pass


async def test_a_child_that_never_answers_is_given_up_after_the_start_timeout() -> None:
    with pytest.raises(Unreachable, match=r"did not answer within 0\.6 s"):
        async with open_client(scripted("mute"), connect_timeout_s=0.2, start_timeout_s=0.6):
            pass


async def test_leaving_ends_the_child_and_everything_it_started() -> None:
    async with open_client(scripted()) as client:
        pid = child_of(client)
        stray = (await client.request(Request.within("tools/call", call("stray"), timeout_s=10)))["pid"]
        assert is_alive(pid)
        assert is_alive(stray)
        assert os.getpgid(pid) == pid
    assert not is_alive(pid)
    await _until_dead(stray)


async def test_a_child_that_ignores_every_request_to_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stdio_child, "STOP_STEP_S", 0.2)
    async with open_client(scripted("stubborn")) as client:
        pid = child_of(client)
    await _until_dead(pid)


async def test_a_child_that_is_stopped_by_a_signal_is_killed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stdio_child, "STOP_STEP_S", 0.2)
    async with open_client(scripted()) as client:
        pid = child_of(client)
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(Unreachable):
            await client.probe(0.2)
    await _until_dead(pid)


@pytest.mark.parametrize("flag", ["mute", "silent"])
async def test_opening_that_is_cancelled_midway_leaves_no_child(flag: str) -> None:
    async def opening() -> None:
        async with open_client(scripted(flag)):
            raise AssertionError("it should not have opened")

    before = _children()  # Other tests of the run may own processes for as long as it lasts.
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        task = group.create_task(opening(), name="opening")
        while not _children() - before:
            await asyncio.wait((task,), timeout=0.01)
        task.cancel()
    assert task.cancelled()
    assert not _children() - before


def _children() -> set[str]:
    return {pid for listing in Path("/proc/self/task").glob("*/children") for pid in listing.read_text().split()}


async def test_calls_in_flight_fail_when_the_client_is_left() -> None:
    async with asyncio.TaskGroup() as group, open_client(scripted()) as client:
        held = group.create_task(_failure(client, "hold"), name="held")
        await client.request(Request.within("tools/call", call("echo"), timeout_s=10))
    assert isinstance(held.result(), CallOutcomeUnknown)


async def test_an_unknown_method_is_the_childs_own_error() -> None:
    async with open_client(scripted()) as client:
        with pytest.raises(RpcError, match="error -32601"):
            await client.request(Request.within("no/such", timeout_s=10))


def test_the_childs_environment_is_a_short_list_and_its_own_settings_win() -> None:
    ours = {
        "PATH": "/bin",
        "HOME": "/root",
        "LC_ALL": "C",
        "AWS_SECRET_ACCESS_KEY": "s",
        "MESH_TOKEN": "t",
        "LANG": "x",
    }
    target = StdioTarget("x", env=(("HOME", "/else"), ("KEY", "k")))
    assert child_environment(ours, target) == {
        "PATH": "/bin",
        "HOME": "/else",
        "LC_ALL": "C",
        "LANG": "x",
        "KEY": "k",
    }


def test_a_child_gets_what_a_network_needs_and_no_secret_beside_it() -> None:
    passed = {
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"),
        *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"),
        *("UV_INDEX_URL", "UV_CACHE_DIR", "npm_config_registry", "NPM_CONFIG_CAFILE"),
    }
    withheld = {"UV_PUBLISH_TOKEN", "NPM_TOKEN", "SSL_KEY", "MESH_TOKEN", "CONSUL_HTTP_TOKEN", "HTTP_PROXY_PASSWORD"}
    assert set(child_environment(dict.fromkeys(passed | withheld, "v"), StdioTarget("x"))) == passed


async def _until_dead(pid: int) -> None:
    async def is_dead() -> bool:
        return not is_alive(pid)

    await eventually(is_dead)  # On a busy machine it waits for its turn to end.


async def test_arguments_that_pass_as_they_came_are_one_line_to_a_child() -> None:
    """The child takes each line for a message: a client would else write to it what it likes."""
    of_its_own = b'{"jsonrpc":"2.0","id":"own","method":"tools/call","params":{"name":"exit","arguments":{}}}'
    rows = b'["x\\n",\n%s\r,\r\n%s\n]' % (of_its_own, of_its_own)
    async with open_client(scripted("modern")) as client:
        params = call("echo", text=orjson.Fragment(rows))
        result = await client.request(Request.within("tools/call", params, timeout_s=10))
        assert result["params"]["arguments"]["text"] == orjson.loads(rows)
