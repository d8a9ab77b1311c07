"""What a client at rest is asked without a task, against servers by script: what is usual, and what is not."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import orjson
import pytest

from agent.client.connect import McpClient, open_client
from agent.client.http.repeated import STRIKES_MAX, Repeated
from agent.client.protocol import Request
from agent.errors import MeshError, ProtocolBroken, Unreachable
from agent.identity.association import PROOF_HEADER, Association, Proven
from agent.model import HttpTarget, Json
from tests.integration.servers.hosting import Script, Seen, discovered, http, rpc_error, rpc_result, scripted
from tests.integration.servers.raw_http import PATIENCE_S, ask, head_of, pool_of, raw_server, until

Answer = Callable[[Seen], bytes | None]
TOOLS: Json = {"resultType": "complete", "tools": [{"name": "a", "inputSchema": {"type": "object"}}]}


def has_prompts(request: Seen) -> bytes:
    return rpc_result(request, {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}, "prompts": {}}})


def lists(result: Json) -> Answer:
    """A server that lists so."""
    return lambda request: (
        discovered(request) if request.body["method"] == "server/discover" else rpc_result(request, result)
    )


@asynccontextmanager
async def opened(answer: Answer = discovered) -> AsyncIterator[tuple[McpClient, Script, list[Answer]]]:
    """A client whose server answers with the last of these."""
    answers = [answer]

    async def answered(request: Seen) -> tuple[bytes | None, bool]:
        return answers[-1](request), True

    async with scripted(answered) as script, asyncio.timeout(PATIENCE_S), open_client(HttpTarget(script.url)) as client:
        yield client, script, answers


async def probe(client: McpClient) -> bool | None:
    """What is heard; None where it cannot be asked."""
    assert client.quiet is not None
    heard: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    if client.quiet.prober()(heard.set_result) is None:
        return None
    return await heard


async def look(client: McpClient, known: Json) -> bool | None:
    assert client.quiet is not None
    heard: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    if client.quiet.list_quietly("tools/list", known.__eq__, heard.set_result) is None:
        return None
    return await heard


async def test_a_server_that_answers_as_ever_is_alive_and_keeps_its_one_connection() -> None:
    async with opened() as (client, script, _):
        for _ in range(5):
            assert await probe(client) is True
        assert script.connections == 1
        assert [one.body["method"] for one in script.seen] == ["server/discover"] * 6


async def test_a_head_that_is_another_each_time_is_as_good() -> None:
    number = 0

    def answer(request: Seen) -> bytes:
        nonlocal number
        number += 1
        body = discovered(request).partition(b"\r\n\r\n")[2]
        return http(200, body, X_Request_Id=f"request-{number}", Date="Sun, 06 Nov 1994 08:49:37 GMT")

    async with opened(answer) as (client, script, _):
        assert [await probe(client) for _ in range(5)] == [True] * 5
        assert script.connections == 1


async def test_an_answer_that_says_something_else_is_judged_and_is_usual_from_then_on() -> None:
    async with opened() as (client, _, answers):
        assert await probe(client) is True
        answers.append(has_prompts)
        assert [await probe(client), await probe(client)] == [True, True]
        assert "prompts" in client.server_info.capabilities


async def test_what_an_ordinary_probe_heard_meanwhile_is_not_taken_for_the_answer_of_before() -> None:
    async with opened() as (client, _, answers):
        assert await probe(client) is True
        answers.append(has_prompts)
        await client.probe(5)
        assert "prompts" in client.server_info.capabilities
        answers.append(discovered)
        assert await probe(client) is True
        assert "prompts" not in client.server_info.capabilities


async def test_a_server_that_speaks_another_era_by_now_makes_the_client_lost() -> None:
    async with opened() as (client, _, answers):
        answers.append(lambda request: rpc_result(request, {"supportedVersions": ["1999-01-01"], "capabilities": {}}))
        assert await probe(client) is False
        assert client.lost.is_set()


@pytest.mark.parametrize(
    "answer",
    [
        lambda request: rpc_error(request, 500, -32603, "no disk"),
        lambda _: http(503),
        lambda _: b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        lambda request: discovered(request) + b"more",
        lambda request: discovered(request).replace(b"Content-Type", b"Connection: close\r\nContent-Type"),
        lambda request: discovered(request).replace(b"Content-Type", b"Content-Length: 1\r\nContent-Type"),
        lambda _: b"SSH-2.0-OpenSSH\r\n\r\n",
        lambda _: None,
    ],
    ids=["error", "refusal", "chunks", "more", "closing", "two lengths", "no HTTP", "end"],
)
async def test_what_is_not_usual_is_left_to_the_ordinary_way_and_its_connection_is_closed(answer: Answer) -> None:
    async with opened() as (client, script, answers):
        assert await probe(client) is True
        answers.append(answer)
        assert await probe(client) is False
        assert not client.lost.is_set()
        answers.append(discovered)
        assert await probe(client) is None, "there is no connection that could be taken"
        await client.probe(5)
        assert await probe(client) is True
        assert script.connections == 2


async def test_a_server_that_never_answers_as_usual_is_not_asked_so_again() -> None:
    async with opened() as (client, script, answers):
        for _ in range(STRIKES_MAX):
            answers.append(lambda _: http(503))
            assert await probe(client) is False
            answers.append(discovered)
            await client.probe(5)
        asked = len(script.seen)
        assert await probe(client) is None
        assert len(script.seen) == asked


async def test_an_answer_in_pieces_is_read_to_its_end() -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await head_of(reader)
            await reader.readexactly(2)
            for part in (
                b"HTTP/1.1 200 OK\r\nContent-Type: application/",
                b"json\r\nContent-Length: 11\r\n\r\n{",
                b'"ok":true}',
            ):
                writer.write(part)
                await writer.drain()
                await until(lambda: not writer.transport.get_write_buffer_size())

    async with raw_server(handle) as url, pool_of(url) as pool:
        await ask(pool)
        bodies: list[bytes] = []
        question = Repeated(pool, "ask", {}, b"{}")
        for _ in range(3):
            heard: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            assert question.ask(lambda body: not bodies.append(body), heard.set_result)
            assert await heard
        assert bodies == [b'{"ok":true}'], "the same again needs no judge"
        assert "1 connections, 1 idle" in repr(pool)


async def test_a_question_that_is_dropped_closes_its_connection_and_is_not_heard_of() -> None:
    async with opened() as (client, _, answers):
        answers.append(lambda _: None)
        heard: list[bool] = []
        assert client.quiet is not None
        for _ in range(STRIKES_MAX + 1):
            drop = client.quiet.prober()(heard.append)
            assert drop is not None, "late answers say nothing about how they would look"
            drop()
            answers.append(discovered)
            await client.probe(5)
            answers.append(lambda _: None)
        answers.append(discovered)
        assert await probe(client) is True
        assert heard == []


async def test_a_list_is_as_it_was_until_it_changes_or_goes_on() -> None:
    async with opened(lists(TOOLS)) as (client, script, answers):
        assert [await look(client, TOOLS), await look(client, {})] == [True, True]
        answers.append(lists({**TOOLS, "tools": []}))
        assert await look(client, TOOLS) is False
        answers.append(lists(TOOLS))
        assert await look(client, {}) is True, "what was known before is still known"
        assert script.connections == 1


async def test_a_list_that_is_again_what_it_was_before_it_was_read_is_not_taken_for_the_one_that_was_read() -> None:
    none = {**TOOLS, "tools": []}
    async with opened(lists(TOOLS)) as (client, _, answers):
        assert await look(client, TOOLS) is True
        answers.append(lists(none))
        assert await client.request(Request.within("tools/list", timeout_s=5)) == none
        answers.append(lists(TOOLS))
        assert await look(client, none) is False


class Proving:
    """As a `Prover` after its handshake."""

    def __init__(self, association: Association) -> None:
        self.association = association


@pytest.mark.parametrize("is_forged", [False, True])
async def test_an_answer_without_its_proof_is_no_sign_of_life(is_forged: bool) -> None:
    theirs = Association("an-id", Proven("a" * 32, member=True), b"r" * 32, b"a" * 32)
    ours = Association("an-id", Proven("b" * 32, member=True), b"r" * 32, b"a" * 32)
    shown: list[str] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await head_of(reader)).decode()
            await reader.readexactly(2)
            lines = [line.partition(": ")[2] for line in head.split("\r\n") if line.startswith(PROOF_HEADER)]
            proof = shown[-1] if is_forged and shown else ""
            if lines and not proof:
                _, number, mac = lines[0].split(".")
                assert theirs.takes(number, mac) == (int(number), True)
                proof = theirs.answer_proof(int(number))
                shown.append(proof)
            writer.write(http(200, b'{"ok":true}', **({PROOF_HEADER.replace("-", "_"): proof} if proof else {})))

    async with raw_server(handle) as url, pool_of(url) as pool:
        await ask(pool)
        pool._prover = Proving(ours)  # type: ignore[assignment]  # it is asked for nothing else
        question, told = Repeated(pool, "ask", {}, b"{}"), list[bool]()
        for _ in range(3):
            heard: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            if question.ask(lambda _: True, heard.set_result):
                told.append(await heard)
        assert told == ([True, False] if is_forged else [True, True, True])


EVENT = b"data: %s\n\n"


def notice(method: str, **params: object) -> bytes:
    return EVENT % orjson.dumps({"jsonrpc": "2.0", "method": f"notifications/{method}", "params": params})


ACKNOWLEDGED = notice("subscriptions/acknowledged", notifications={"toolsListChanged": True})


@asynccontextmanager
async def listening() -> AsyncIterator[
    tuple[asyncio.StreamWriter, "asyncio.Queue[str | MeshError]", Callable[[], None]]
]:
    """A stream that is held without a task: where its server writes, what comes of that, and what drops it."""
    streams: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await head_of(reader)).lower()
            length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            message = orjson.loads(await reader.readexactly(length))
            if message["method"] == "subscriptions/listen":
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
                )
                writer.write(chunk(ACKNOWLEDGED))
                streams.put_nowait(writer)
                await reader.read()
                writer.close()
                return
            writer.write(discovered(Seen("POST", "/mcp", {}, message, 0, b"")))

    told: asyncio.Queue[str | MeshError] = asyncio.Queue()
    async with raw_server(handle) as url, asyncio.timeout(PATIENCE_S), open_client(HttpTarget(url)) as client:
        assert client.quiet is not None
        drop = await client.quiet.listen_quietly(told.put_nowait, told.put_nowait)
        assert await told.get() == "listening"
        yield await streams.get(), told, drop


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


async def test_changes_are_heard_of_however_their_bytes_are_cut() -> None:
    async with listening() as (writer, told, _):
        data = chunk(notice("tools/list_changed")) + chunk(b": still here\n\n" + notice("prompts/list_changed"))
        for byte in data:
            writer.write(bytes([byte]))
            await writer.drain()
        assert [await told.get(), await told.get()] == ["tools", "prompts"]


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        (b"0\r\n\r\n", Unreachable, "ended the stream"),
        (chunk(EVENT % b'{"jsonrpc":"2.0","id":1,"result":{}}'), Unreachable, "ended the stream"),
        (chunk(EVENT % b"no JSON"), ProtocolBroken, "not JSON"),
        (b"no chunk\r\n", Unreachable, "does not speak HTTP"),
        (chunk(b"data: " + b"x" * (1 << 20)) + chunk(b"x"), ProtocolBroken, "too large"),
        (b"", Unreachable, "broke off"),
    ],
    ids=["end", "result", "no JSON", "no chunk", "too large", "reset"],
)
async def test_a_stream_ends_once_and_says_why(data: bytes, kind: type[MeshError], words: str) -> None:
    async with listening() as (writer, told, _):
        writer.write(data)
        if not data:
            writer.transport.abort()
        failure = await told.get()
        assert isinstance(failure, kind)
        assert words in str(failure)
        await until(lambda: writer.transport.is_closing() or told.empty())
        assert told.empty()


async def test_a_stream_that_is_dropped_closes_its_connection_without_a_word() -> None:
    async with listening() as (writer, told, drop):
        drop()
        await until(writer.transport.is_closing)
        assert told.empty()
