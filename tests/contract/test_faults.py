"""Answers that no healthy Consul gives: each must cost us nothing but time."""

from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web

from discovery.consul import client as consul_client
from discovery.consul.client import open_client
from discovery.consul.environment import ConsulSettings
from discovery.consul.session import open_session
from discovery.model import AgentUnreachable, CatalogUnavailable, Registration
from tests.contract.fault_server import FaultServer, fault_server, rows_answer, serving
from tests.contract.following import Follower, ids, running, until
from tests.ports import free_port

INDEX = {"X-Consul-Index": "7"}


@pytest.mark.parametrize(
    "bad",
    [
        lambda: web.Response(text="<html>log in first</html>", content_type="text/html", headers=INDEX),
        lambda: web.Response(text="null", headers=INDEX),
        lambda: web.Response(text="{}", headers=INDEX),
        lambda: web.Response(text="[{", headers=INDEX),
        lambda: web.Response(body=b"\xff\xfe[]", headers=INDEX),
        lambda: web.Response(body=b"[" * 100_000, headers=INDEX),
        lambda: web.Response(text="[]"),
        lambda: web.Response(text="[]", headers={"X-Consul-Index": "soon"}),
        lambda: web.Response(text="[]", headers={"X-Consul-Index": "-3"}),
        lambda: web.Response(status=500, text="No cluster leader"),
        lambda: web.Response(status=429, text="too many connections"),
        lambda: web.Response(status=404, text="404 page not found"),
        lambda: web.Response(status=204, headers=INDEX),
        lambda: web.Response(status=307, headers={"Location": "http://127.0.0.1:9/elsewhere"} | INDEX),
    ],
)
async def test_an_answer_that_is_none_is_unavailable_and_nothing_else(bad: Callable[[], web.Response]) -> None:
    async with fault_server(lambda _number, _request: bad()) as server, open_client(server.settings) as client:
        with pytest.raises(CatalogUnavailable):
            await client.health("mcp-node")
        assert len(server.queries) == 1


async def test_a_proxy_that_cuts_off_waits_is_named_with_the_setting_for_it() -> None:
    cut = web.Response(status=504, text="gateway time-out")
    async with fault_server(lambda _number, _request: cut) as server, open_client(server.settings) as client:
        with pytest.raises(CatalogUnavailable, match=r"504 gateway time-out; a proxy .* MESH_CONSUL_WAIT_S"):
            await client.health("mcp-node", index=5, wait_s=1.5)


async def test_the_token_travels_in_its_header_and_the_namespace_in_the_query() -> None:
    async with (
        fault_server(lambda _number, _request: rows_answer("a")) as server,
        open_client(server.settings) as client,
    ):
        await client.health("mcp-node", index=5, wait_s=1.5)
    assert server.tokens == ["t0ken"]
    assert server.queries == [{"index": "5", "wait": "1500ms", "ns": "team"}]


async def test_news_that_end_a_wait_early_do_not_end_the_patience_with_an_agent_that_is_slow() -> None:
    async with (
        fault_server(lambda _number, _request: rows_answer("a")) as server,
        open_client(server.settings) as client,
    ):
        patience = client._transport._patience
        patience.note_late("GET health/service")  # A read without an index took longer than 5 s.
        await client.health("mcp-node", index=5, wait_s=25.0)
        assert patience.more_s("GET health/service") == 5.0
        await client.health("mcp-node")
        assert patience.more_s("GET health/service") == 0.0
        patience.note_late("GET health/service, waiting")  # Waits themselves took longer than they may.
        await client.health("mcp-node", index=5, wait_s=25.0)
        assert patience.more_s("GET health/service, waiting") == 5.0
        await client.health("mcp-node", index=5, wait_s=0.0001)  # Over when it is answered.
        assert patience.more_s("GET health/service, waiting") == 0.0


async def test_a_unix_socket_serves_as_well(tmp_path: Path) -> None:
    server = FaultServer(lambda _number, _request: rows_answer("a"))
    async with serving(server, unix_path=tmp_path / "consul.sock"):
        settings = ConsulSettings(url=f"unix://{tmp_path}/consul.sock")
        async with open_session(settings) as session:
            follower = Follower(session.source("mcp-node"))
            async with running(follower.run()):
                await follower.until_ids("a")


async def test_a_connection_that_breaks_in_a_wait_is_not_repeated_with_the_old_index() -> None:
    async with fault_server(lambda _number, request: _hang_up(request)) as server:
        async with open_client(server.settings) as client:
            await client.leader(1.0)  # now there is a pooled connection
            with pytest.raises(AgentUnreachable):
                await client.health("mcp-node", index=5, wait_s=1.0)
        assert len(server.queries) == 1


@pytest.mark.parametrize(("lasted_s", "said"), [(0.0, "http_max_conns_per_client"), (1.0, "MESH_CONSUL_WAIT_S")])
async def test_a_wait_that_breaks_off_names_the_limit_of_connections_only_when_it_does_at_once(
    monkeypatch: pytest.MonkeyPatch, lasted_s: float, said: str
) -> None:
    monkeypatch.setattr(consul_client, "_LIMIT_ENDS_S", 1.0 - lasted_s)
    async with (
        fault_server(lambda _number, request: _hang_up(request)) as server,
        open_client(server.settings) as client,
    ):
        with pytest.raises(AgentUnreachable, match="the wait broke off after") as broken:
            await client.health("mcp-node", index=5, wait_s=5.0)
    assert [word for word in ("http_max_conns_per_client", "MESH_CONSUL_WAIT_S") if word in str(broken.value)] == [said]


async def test_a_registration_that_an_agent_hangs_up_on_names_both_causes() -> None:
    class HangsUp(FaultServer):
        async def register(self, request: web.Request) -> web.Response:
            return _hang_up(request)

        async def deregister(self, request: web.Request) -> web.Response:
            return _hang_up(request)

    server = HangsUp(lambda _number, _request: rows_answer())
    async with serving(server), open_client(server.settings) as client:
        with pytest.raises(AgentUnreachable, match=r"http_max_conns_per_client.*lost its data_dir.*catalog/deregister"):
            await client.register({"ID": "node-1", "Name": "mcp-node"})
        with pytest.raises(AgentUnreachable) as broken:
            await client.deregister("node-1")
    assert "data_dir" not in str(broken.value)


async def test_a_wait_that_is_refused_a_connection_is_no_sign_of_a_limit() -> None:
    async with open_client(ConsulSettings(url=f"http://127.0.0.1:{free_port()}")) as client:
        with pytest.raises(AgentUnreachable) as refused:
            await client.health("mcp-node", index=5, wait_s=1.0)
    assert "Cannot connect" in str(refused.value)
    assert "limit" not in str(refused.value)


def _hang_up(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


async def test_bad_answers_leave_the_last_good_catalog_and_the_good_one_after_them_is_index_less() -> None:
    def script(number: int, _request: web.Request) -> web.Response:
        return web.Response(status=500, text="No cluster leader") if number in {2, 3} else rows_answer("a", "b")

    async with fault_server(script) as server, open_session(server.settings) as session:
        follower = Follower(session.source("mcp-node"))
        async with running(follower.run()):
            await until(lambda: len(server.queries) >= 5, what="five queries")
    assert [ids(catalog) for catalog in follower.catalogs] == [{"a", "b"}]
    assert [query.get("index") for query in server.queries[:5]] == [None, "10", None, None, "10"]


async def test_one_empty_answer_is_not_believed_when_the_second_read_disagrees() -> None:
    def script(number: int, request: web.Request) -> web.Response:
        return rows_answer(index=11) if number == 2 else rows_answer("a", "b", "c", index=9 + len(request.query))

    async with fault_server(script) as server, open_session(server.settings) as session:
        follower = Follower(session.source("mcp-node"))
        async with running(follower.run()):
            await until(lambda: len(server.queries) >= 4, what="four queries")
    assert [ids(catalog) for catalog in follower.catalogs] == [{"a", "b", "c"}]
    assert "consistent" in server.queries[2]
    assert "index" not in server.queries[2]


async def test_an_empty_catalog_that_is_confirmed_is_shown() -> None:
    def script(number: int, _request: web.Request) -> web.Response:
        return rows_answer("a", "b", "c") if number == 1 else rows_answer(index=11)

    async with fault_server(script) as server, open_session(server.settings) as session:
        follower = Follower(session.source("mcp-node"))
        async with running(follower.run()):
            await follower.until_ids(within_s=2)
    assert [ids(catalog) for catalog in follower.catalogs] == [{"a", "b", "c"}, set()]


async def test_empty_answers_without_our_own_registration_are_never_believed() -> None:
    def script(_number: int, _request: web.Request) -> web.Response:
        return rows_answer("a", "b", "own") if empty_from[0] == 0 else rows_answer(index=11)

    empty_from = [0]
    async with fault_server(script) as server, open_session(server.settings) as session:
        registrar = session.registrar(Registration("own", "mcp-node", 8000))
        follower = Follower(session.source("mcp-node", registrar))
        async with running(registrar.keep(), follower.run()):
            await follower.until_ids("a", "b", "own")
            await until(lambda: registrar.status.registered, what="registered")
            empty_from[0] = 1
            await until(lambda: "not trusted" in follower.source.status.last_error, what="distrust")
            asked = len(server.queries)
            await until(lambda: len(server.queries) >= asked + 6, what="six more queries")
            assert [ids(catalog) for catalog in follower.catalogs] == [{"a", "b", "own"}]
            empty_from[0] = 0
            await until(lambda: follower.source.status.up, what="trust again")


async def test_a_broken_row_costs_that_row_alone() -> None:
    def script(_number: int, _request: web.Request) -> web.Response:
        good = rows_answer("a", "b")
        assert isinstance(good.body, bytes)
        return web.Response(body=b'[{"Node": 1}, null, 7,' + good.body[1:], headers=INDEX)

    async with fault_server(script) as server, open_session(server.settings) as session:
        follower = Follower(session.source("mcp-node"))
        async with running(follower.run()):
            await follower.until_ids("a", "b")
