"""Links that answer as a test tells them, and a dispatch over them; time is the loop's, which tests may turn.

Used by the tests of dispatch. The one rule: a scripted link raises what `McpClient.request` may raise and nothing else.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from agent.client.protocol import Request
from agent.dispatch.dispatcher import Dispatch
from agent.metrics import Metrics
from agent.model import (
    BackendSpec,
    HttpTarget,
    Json,
    LinkState,
    LinkView,
    NodeIdentity,
    Offer,
    PeerScope,
    PeerSource,
    PeerSpec,
    ServerScope,
    ServerSpec,
)
from agent.routing.table import Replica, Route, RouteKind

OK: Json = {"content": []}
Answer = Callable[["ScriptedLink"], Awaitable[Json]]


@dataclass
class ScriptedLink:
    """One link. `answers` are used up in turn, the last one for ever: an exception, a result, or who makes one."""

    spec: BackendSpec
    answers: list[Exception | Json | Answer]
    up_since_s: float = 0.0
    asked: list[Json] = field(default_factory=list)
    affinities: list[str | None] = field(default_factory=list)
    time_limits_s: list[float] = field(default_factory=list)
    state: LinkState = LinkState.READY
    calls_waiting: int = 0
    offer: Offer = field(default_factory=Offer)
    heard_at_s: float = 0.0
    unheard: bool = False

    @property
    def view(self) -> LinkView:
        up_since_s = self.up_since_s if self.state in (LinkState.READY, LinkState.SUSPECT) else None
        return LinkView(self.spec, self.state, self.offer, ready_at_s=up_since_s, unheard=self.unheard)

    def called(self) -> None:
        self.calls_waiting += 1

    async def request(self, request: Request) -> Json:
        assert (request.headers, request.on_notification, request.sink) == (None, None, None)
        assert request.params is not None
        self.asked.append(request.params)
        self.affinities.append(request.affinity)
        self.time_limits_s.append(request.left_s())
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, dict) else await answer(self)


def after(seconds: float, then: Exception | Json) -> Answer:
    """An answer that takes its time."""

    async def answer(_: ScriptedLink) -> Json:
        await asyncio.sleep(seconds)
        if isinstance(then, Exception):
            raise then
        return then

    return answer


def alike(names: str, answer: Exception | Json) -> dict[str, list[Exception | Json | Answer]]:
    """One peer for each letter, all of the same answer."""
    return {name: [answer] for name in names}


@dataclass
class Fleet:
    """Peers a, b, c, ... that offer one tool, and a dispatch before them. `unlisted`: backends that are in no table."""

    links: dict[str, ScriptedLink]
    route: Route
    dispatch: Dispatch
    metrics: Metrics
    unlisted: set[str]

    async def call(self, params: Json | None = None, route: Route | None = None, **more: Any) -> Json:
        found = await self.dispatch.forward(
            "tools/call", route or self.route, params or {"name": "kit__do", "arguments": {}}, **more
        )
        return found.result

    def link(self, name: str) -> ScriptedLink:
        return next(link for link in self.links.values() if link.spec.name == name)

    def counts(self) -> dict[str, int]:
        return {link.spec.name: len(link.asked) for link in self.links.values()}

    def series(self) -> dict[str, float]:
        lines = self.metrics.render()[0].decode().splitlines()
        return {
            name: float(value)
            for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))
        }


def fleet(
    *,
    annotations: Json | None = None,
    owner: str = "service:kit",
    sticky: bool = False,
    call_timeout_s: float = 60.0,
    ours: ServerSpec | None = None,
    scope: PeerScope = PeerScope.LOCAL,
    **answers: list[Exception | Json | Answer],
) -> Fleet:
    """`answers`: peer name -> what it answers. `ours`: a server of this node, whose answers are under its name."""
    links: dict[str, ScriptedLink] = {}
    replicas: list[Replica] = []
    for name, script in answers.items():
        if ours is not None and name == ours.name:
            spec: BackendSpec = ours
            replicas.append(Replica(spec.key, "do", "me", ours=True, hops=0))
        else:
            spec = PeerSpec(name, HttpTarget("http://192.0.2.7/mcp"), PeerSource.DISCOVERY, scope)
            node_id = None if owner.startswith("plain:") else f"node-{name}"
            replicas.append(Replica(spec.key, "kit__do", node_id, ours=False))
        links[spec.key] = ScriptedLink(spec, list(script))
    definition = {"name": "kit__do"} | ({} if annotations is None else {"annotations": annotations})
    route = Route(RouteKind.TOOL, "kit__do", definition, "d", tuple(replicas), True, owner, sticky)
    metrics, unlisted = Metrics("test"), set[str]()
    dispatch = Dispatch(
        node_id=NodeIdentity("me", "me").node_id,
        link=links.get,
        recorder=metrics,
        call_timeout_s=call_timeout_s,
        rng=random.Random(4),
        is_listed=lambda backend: backend not in unlisted,
    )
    return Fleet(links, route, dispatch, metrics, unlisted)


def own_server(name: str = "kit", **more: Any) -> ServerSpec:
    """A configured server of this node."""
    return ServerSpec(name, HttpTarget("http://192.0.2.8/mcp"), ServerScope.SERVICE, **more)
