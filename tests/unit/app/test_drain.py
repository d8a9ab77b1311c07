"""The end of serving: a client that came to the listener before it closed is heard."""

import socket

import aiohttp
import pytest
from aiohttp import web

from agent.app.drain import close_listener, last_answer
from agent.app.sockets import bound_socket
from tests.waiting import one_pass

ASK = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("passes", range(4))
async def test_no_client_that_connected_before_the_socket_closed_is_left_waiting_or_refused(passes: int) -> None:
    async def greet(_request: web.Request) -> web.Response:
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_get("/", greet)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    with bound_socket("127.0.0.1", 0, explicit=True) as bound:
        address = bound.getsockname()
        await web.SockSite(runner, bound).start()
        clients = [socket.create_connection(address, timeout=5) for _ in range(20)]
        for client in clients:
            client.sendall(ASK)
        for _ in range(passes):
            await one_pass()
        await close_listener(runner, bound)
        with pytest.raises(ConnectionRefusedError), socket.create_connection(address, timeout=5):
            pytest.fail("the socket is closed")
        await runner.cleanup()
        assert [answer(client) for client in clients] == ["hello"] * 20


def answer(client: socket.socket) -> str:
    """The text that came; who is left waiting raises TimeoutError, who is turned away ConnectionResetError."""
    with client, client.makefile("rb") as stream:
        return stream.read().decode().rpartition("\r\n\r\n")[2]


async def test_an_answer_says_that_it_is_its_connections_last_while_the_node_drains() -> None:
    draining = False

    async def greet(request: web.Request) -> web.StreamResponse:
        if request.query_string:
            return web.Response(text="hello")
        stream = web.StreamResponse()
        await stream.prepare(request)
        await stream.write(b"hello")
        return stream

    app = web.Application()
    app.on_response_prepare.append(last_answer(lambda: draining))
    app.router.add_get("/", greet)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    with bound_socket("127.0.0.1", 0, explicit=True) as bound:
        await web.SockSite(runner, bound).start()
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/"
        async with aiohttp.ClientSession() as session:
            for draining in (False, True):
                for path in ("", "?whole"):
                    async with session.get(url + path) as response:
                        assert await response.text() == "hello"
                        assert (response.headers.get("Connection") == "close") is draining
        await runner.cleanup()
