"""Rows that access control hides from us: peers that answer stay, and the right that is missing is named.

Run against a real Consul that denies by default, and against a scripted one. Of another datacentre no entry of our own
can prove that we may read, so the watch of one is tried. The one rule: lost rights remove no peer that answers.
"""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from aiohttp import web

from discovery.consul import watch
from discovery.consul.client import open_client
from discovery.consul.registration import register_payload
from discovery.consul.watch import ConsulWatch
from discovery.model import Catalog, Instance, Registration
from tests.consul_process import RunningConsul, version_of
from tests.contract.fault_server import fault_server, rows_answer
from tests.contract.following import Follower, health_of, ids, running, until

# From here on Consul says of an answer that it left rows out.
NAMES_THE_FILTER_SINCE = (1, 11)
WITHOUT_NODES = 'service_prefix "" { policy = "read" }'
ALL = WITHOUT_NODES + 'node_prefix "" { policy = "read" }'


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes a minute takes seconds."""
    monkeypatch.setattr(watch, "CONFIRM_EVERY_S", 1.0)
    monkeypatch.setattr(watch, "HIDDEN_AGAIN_S", 1.0)


class Links:
    """Those that are up, by service ID."""

    def __init__(self, *up: str) -> None:
        self.up = set(up)

    def answers(self, instance: Instance) -> bool:
        return instance.key.service_id in self.up


@pytest.fixture
async def peers(guarded: RunningConsul, name: str) -> AsyncIterator[tuple[str, str, str]]:
    """Three of them, registered under this test's name."""
    peers = f"{name}-1", f"{name}-2", f"{name}-3"
    async with open_client(guarded.settings()) as operator:
        for peer in peers:
            await operator.register(register_payload(Registration(peer, name, 8000)))
        yield peers
        for peer in peers:
            await operator.deregister(peer)


@pytest.mark.consul
async def test_a_token_that_loses_node_read_in_another_datacentre_removes_no_peer_that_answers(
    guarded: RunningConsul, name: str, peers: tuple[str, str, str], caplog: pytest.LogCaptureFixture
) -> None:
    token = await guarded.token_for(ALL)
    links = Links(*peers[:2])
    async with open_client(guarded.settings(token)) as client:
        follower = Follower(ConsulWatch(client, name, wait_s=1.0, dc="dc1", answers=links.answers))
        async with running(follower.run()):
            await follower.until_ids(*peers)
            await guarded.change_rules(token, WITHOUT_NODES)
            await follower.until_ids(*peers[:2])
            source = follower.source
            await until(lambda: "lack" in source.status.last_error, what="what is missing is named")
            assert not source.status.up
            assert "node:read" in source.status.last_error
            assert "still answer" in caplog.text
            says = version_of(guarded.binary) >= NAMES_THE_FILTER_SINCE
            assert ("left out" in source.status.last_error) is source.status.filtered is says
            # They get no new link, and keep the one that they have; one that ends is believed to have left.
            assert [health_of(follower.catalogs[-1], peer) for peer in peers[:2]] == ["critical"] * 2
            links.up.remove(peers[0])
            await follower.until_ids(peers[1])
            await guarded.change_rules(token, ALL)
            await follower.until(lambda seen: [health_of(seen, peer) for peer in peers] == ["passing"] * 3)
            await until(lambda: source.status.up and not source.status.filtered, what="trusted again")


@pytest.mark.consul
async def test_peers_that_have_really_left_another_datacentre_are_gone_when_they_no_longer_answer(
    guarded: RunningConsul, name: str, peers: tuple[str, str, str]
) -> None:
    links = Links(*peers)
    async with open_client(guarded.settings(await guarded.token_for(ALL))) as client:
        follower = Follower(ConsulWatch(client, name, wait_s=1.0, dc="dc1", answers=links.answers))
        async with running(follower.run()):
            await follower.until_ids(*peers)
            async with open_client(guarded.settings()) as operator:
                for peer in peers:
                    await operator.deregister(peer)
            links.up.clear()
            await follower.until(lambda seen: not seen.instances)
            await until(lambda: follower.source.status.up, what="believed")


async def test_a_lone_peer_that_a_filtered_answer_lacks_stays_while_it_answers(name: str) -> None:
    now = ["a", "b", "c", "d"]

    def script(_number: int, request: web.Request) -> web.Response:
        answer = rows_answer(*now, index=10 + 4 - len(now))
        answer.headers["X-Consul-Query-Backend"] = "streaming"
        if len(now) < 4 and "index" not in request.query:  # The agent's cache does not say it.
            answer.headers["X-Consul-Results-Filtered-By-Acls"] = "true"
        return answer

    async with fault_server(script) as server, open_client(server.settings) as client:
        follower = Follower(ConsulWatch(client, name, dc="dc2", answers=Links("a", "b", "c", "d").answers))
        async with running(follower.run()):
            await follower.until_ids("a", "b", "c", "d")
            now.remove("d")
            await until(lambda: "left out" in follower.source.status.last_error, what="the filter is named")
            await follower.until(lambda seen: health_of(seen, "d") == "critical")
            assert all("d" in ids(seen) for seen in follower.catalogs)
            now.append("d")
            await follower.until(lambda seen: health_of(seen, "d") == "passing")


async def test_a_peer_that_left_while_its_link_is_still_up_goes_where_consul_hides_nothing(name: str) -> None:
    now = ["a", "b", "c", "d"]

    def script(_number: int, _request: web.Request) -> web.Response:
        answer = rows_answer(*now, index=10 + 4 - len(now))
        answer.headers["X-Consul-Query-Backend"] = "streaming"
        return answer

    async with fault_server(script) as server:
        for token in ("t0ken", None):
            now[:] = ["a", "b", "c", "d"]
            async with open_client(replace(server.settings, token=token)) as client:
                follower = Follower(ConsulWatch(client, name, dc="dc2", answers=Links(*now).answers))
                async with running(follower.run()):
                    await follower.until_ids("a", "b", "c", "d")
                    now.remove("d")
                    await follower.until_ids("a", "b", "c")
                    assert [healths(seen) for seen in follower.catalogs] == [{"passing"}] * 2


def healths(catalog: Catalog) -> set[str]:
    return {one.health.value for one in catalog.instances}
