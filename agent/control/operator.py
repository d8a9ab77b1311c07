"""What operators order about peers: add one, remove one, and hear how it went; ask another node what it shows.

Called by the REST API and the management tools. The one rule: an order is on disk before it is answered, and an order
once begun is finished, whether or not the client still waits for it; a refusal is an answer and never a failure of the
node.
"""

import asyncio
import contextlib
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from agent.client.protocol import Request
from agent.control.reconciler import Mesh
from agent.errors import (
    AuthRefused,
    DialledOurselves,
    DialRefused,
    IdentityRefused,
    MeshError,
    OverrideRefused,
    ProtocolBroken,
    RpcError,
)
from agent.model import Json, LinkView, Override, PeerSpec, Suppression, masked_url
from agent.node_mark import node_mark
from agent.peer_kind import PeerKind
from agent.state.overrides import OverrideStore

# How long an added peer's first attempt is waited for before the answer is "saved, not connected".
FIRST_ATTEMPT_TIMEOUT_S: Final = 5.0

# What answered has not proven that it is a node.
_NO_PROOF: Final = frozenset(kind.__name__ for kind in (AuthRefused, IdentityRefused, ProtocolBroken))

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Removal:
    """What the removal of a peer has come to.

    `suppressed`: the names that discovery may not bring back. `linked_as`: the name by which the node that an override
    was for stays linked, None where it does not: discovery knows it, or, with `is_ordered`, another override or a
    setting. `is_namesake`: the override led to nothing that discovery knows, and this is its node of that name, which
    gets the name back.
    """

    suppressed: tuple[str, ...] = ()
    linked_as: str | None = None
    is_namesake: bool = False
    is_ordered: bool = False


class OverrideService:
    """See the module. The only caller of the store's writing methods; `tasks` is the node's own group."""

    def __init__(self, mesh: Mesh, store: OverrideStore, tasks: asyncio.TaskGroup) -> None:
        self._mesh = mesh
        self._store = store
        self._tasks = tasks
        # A condition that was checked must still hold when the override is written, and the next word is judged by what
        # this one has come to: of two removals of an added peer at once, the second would keep away the node that
        # discovery knows.
        self._one_at_a_time = asyncio.Lock()

    @property
    def suppressions(self) -> tuple[Suppression, ...]:
        """Discovered peers that an operator removed."""
        return self._store.suppressions

    async def add(self, override: Override) -> tuple[bool, LinkView | None]:
        """Keep a peer and wait for its first attempt; returns whether it is a new one, and its link's view.

        Raises `OverrideRefused`: 409 when the name belongs to a server, to this node or to another URL, when the URL
        leads to this very node, claims to be a node that is known at another one without its key, or is to be a node
        by the order's `kind` and does not prove it; 403 for an address
        that is never dialled; 503 while the node stops; 507 not saved.
        """
        return await self._finish(self._add(override), f"add peer {override.name}")

    async def remove(self, name: str) -> Removal:
        """Remove an added peer, which leaves what discovery knows; or suppress a discovered one, so that it stays away.

        `name` may be an alias. Raises `OverrideRefused`: 404 unknown, 409 for a static peer, 503, 507.
        """
        return await self._finish(self._remove(name), f"remove peer {name}")

    async def reset(self, name: str) -> Removal:
        """Undo every word of operators about a peer: what was added, changed or removed by that name or alias.

        Raises `OverrideRefused`: 404 where there is no such word, 503, 507.
        """
        return await self._finish(self._reset(name), f"reset peer {name}")

    async def _add(self, override: Override) -> tuple[bool, LinkView | None]:
        async with self._one_at_a_time:
            self._refuse_taken_name(override)
            before = self._override_named(override.name)
            created = before is None
            lifted = tuple(known for known in self._store.suppressions if known.name == override.name)
            try:
                await self._store.put(override)
            finally:
                self._mesh.forget_who_answered(override.target.url)
                self._mesh.wake()
            await self._mesh.settled()
        link = self._mesh.link(f"peer:{override.name}")
        if not created and link is not None and not link.view.connected:
            link.reload()
        view = await self._first_attempt(override.name)
        if view is not None and (impossible := self._impossible(override, view)) is not None:
            await self._withdraw(override, before, lifted)
            raise impossible
        if view is not None and view.connected:
            # It may have proven to be a node that has a link already, which it shares from the next step on.
            self._mesh.wake()
            await self._mesh.settled()
        return created, view

    def _impossible(self, override: Override, view: LinkView) -> OverrideRefused | None:
        """Why an added peer cannot be kept, as its first attempt has shown; None where it can."""
        shown = override.target.shown
        if view.failure == DialledOurselves.__name__:
            return OverrideRefused(409, "own_node", f"peer_url: {shown} is this node itself")
        if view.failure == DialRefused.__name__:
            return OverrideRefused(403, "address_refused", f"peer_url: {view.last_error}")
        if override.kind is PeerKind.SERVER and view.claimed == node_mark(self._mesh.own.node_id):
            return OverrideRefused(409, "own_node", f"peer_url: {view.last_error}")
        if override.kind is PeerKind.NODE and view.identity is None and (view.connected or view.failure in _NO_PROOF):
            why = view.last_error or f"{shown} has proven nothing"
            return OverrideRefused(409, "not_a_node", f"peer_url: {why}")
        for other in self._mesh.peer_views() if view.claimed else ():
            node_id = _node_of(other)
            if other.key != view.key and node_id is not None and node_mark(node_id) == view.claimed:
                message = f"peer_url: {shown} claims to be the node of peer {other.spec.name!r}: {view.last_error}"
                return OverrideRefused(409, "node_known_elsewhere", message)
        return None

    async def _withdraw(self, override: Override, before: Override | None, lifted: tuple[Suppression, ...]) -> None:
        """Undo an impossible override, unless it was replaced meanwhile; what it has changed is as it was `before`."""
        async with self._one_at_a_time:
            if self._override_named(override.name) == override:
                await (self._store.remove(override.name) if before is None else self._store.put(before))
                for suppression in lifted:
                    await self._store.suppress(suppression)
            await self._mesh.settled()

    async def _remove(self, name: str) -> Removal:
        async with self._one_at_a_time:
            view = self._mesh.find_peer(name)
            called = name if view is None else view.spec.name
            override = self._override_named(name)
            if override is None:
                if any(static.name in (name, called) for static in self._mesh.statics):
                    raise OverrideRefused(409, "static_peer", f"Peer {name!r} comes from MESH_PEERS; remove it there.")
                override = self._override_named(called)
            if view is None and override is None:
                known = self._mesh.hiding(name)  # Listed and not linked: kept away before it is back.
                if not known:
                    raise OverrideRefused(404, "unknown_peer", _why_unknown(self._mesh, name))
            else:
                known = self._mesh.selection.discovered.get(override.name if override else called, ())
            twins = () if override is None else self.same_node_as(override.name)
            try:
                if override is not None:
                    await self._store.remove(override.name)
                else:
                    for suppression in known:
                        await self._store.suppress(suppression)
            finally:
                self._mesh.wake()
            await self._mesh.settled()
        if override is None:
            return Removal(suppressed=tuple(suppression.name for suppression in known))
        return _fallen_back(self._mesh, override.name, known, twins)

    async def _reset(self, name: str) -> Removal:
        async with self._one_at_a_time:
            view = self._mesh.find_peer(name)
            override = self._override_named(name) or (None if view is None else self._override_named(view.spec.name))
            lifted = [known for known in self._store.suppressions if known in self._mesh.keeping_away(name)]
            if override is None and not lifted:
                message = f"No operator has added, changed or removed a peer named {name!r}."
                raise OverrideRefused(404, "unknown_peer", message)
            known = () if override is None else self._mesh.selection.discovered.get(override.name, ())
            twins = () if override is None else self.same_node_as(override.name)
            try:
                if override is not None:
                    await self._store.remove(override.name)
                for suppression in lifted:
                    await self._store.lift(suppression)
            finally:
                self._mesh.wake()
            await self._mesh.settled()
        return _fallen_back(self._mesh, None if override is None else override.name, (*known, *lifted), twins)

    def same_node_as(self, name: str) -> tuple[str, ...]:
        """The other peers of operators and settings that lead to the node of this one, and share its link."""
        ordered = {known.name for known in self._store.overrides} | {static.name for static in self._mesh.statics}
        found = next((spec for spec in self._mesh.selection.peers if name in (spec.name, *spec.aliases)), None)
        names = () if found is None else (found.name, *found.aliases)
        return tuple(other for other in names if other in ordered and other != name)

    async def _first_attempt(self, name: str) -> LinkView | None:
        """The peer's link after its first outcome or after the time is up; None when it has no link.

        The link may be replaced meanwhile, or go because its node has another link already: then that one counts.
        """
        view: LinkView | None = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_ATTEMPT_TIMEOUT_S):
                while (found := self._mesh.find_peer(name)) is not None:
                    link = self._mesh.link(found.key)
                    assert link is not None
                    await link.first_attempt.wait()
                    view = link.view
                    if view.failure == DialledOurselves.__name__ or self._mesh.link(found.key) is link:
                        return view
        return self._mesh.find_peer(name) or view

    def _refuse_taken_name(self, override: Override) -> None:
        name, url = override.name, override.target.url
        if name == self._mesh.own.name:
            raise OverrideRefused(409, "own_node", f"peer_name: {name!r} is this node's own name.")
        if any(server.name == name for server in self._mesh.servers):
            raise OverrideRefused(409, "name_taken", f"peer_name: {name!r} is an MCP server of this node.")
        taken = {static.name: static.url for static in self._mesh.statics}
        taken |= {known.name: known.target.url for known in self._store.overrides}
        if taken.get(name, url) != url:
            shown = masked_url(taken[name])
            message = f"peer_name: {name!r} is already {shown}; remove that or choose another name."
            raise OverrideRefused(409, "name_taken", message)

    def _override_named(self, name: str) -> Override | None:
        return next((known for known in self._store.overrides if known.name == name), None)

    async def _finish(self, work: Coroutine[Any, Any, T], name: str) -> T:
        """Run a change to its end in a task of the node; an exception comes back as a value.

        A task of the node's group that raised would end the node, and one of the request would end with its client.
        """

        async def contained() -> T | Exception:
            try:
                return await work
            except Exception as exc:  # noqa: BLE001 - raised again below, to the client
                return exc

        outcome = await asyncio.shield(self._tasks.create_task(contained(), name=name))
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def _why_unknown(mesh: Mesh, name: str) -> str:
    """That there is no such peer; of one that was there, what has become of it and what to do."""
    why = ""
    if mesh.keeping_away(name):
        why = f": it was removed before, and is kept away until it is added again or reset (peers reset {name})"
    elif any(one.name == name for one in mesh.departed()):
        why = ": it has left, and discovery lists it no more; it can be removed when it is back"
    return f"There is no peer named {name!r}{why}."


def _fallen_back(mesh: Mesh, name: str | None, known: Iterable[Suppression], twins: Iterable[str]) -> Removal:
    """What is there without the override: by another order for the same node, one of `twins`; else by discovery alone.

    Of that the first of what `known` would hide, else what has an override's name now. Where the override led to
    nothing, discovery's node of its name had another one until now.
    """
    for twin in twins:
        if (view := mesh.find_peer(twin)) is not None:
            return Removal(linked_as=view.spec.name, is_ordered=True)
    for word in (word for one in known for word in (one.name, one.service_id) if word is not None):
        if (view := mesh.find_peer(word)) is not None:
            return Removal(linked_as=view.spec.name)
    namesake = None if name is None else mesh.find_peer(name)
    return Removal() if namesake is None else Removal(linked_as=namesake.spec.name, is_namesake=True)


def _node_of(view: LinkView) -> str | None:
    """Which node a link leads to, as it has proven last, or as it would have to."""
    if view.identity is not None:
        return view.identity.node_id
    return view.spec.expected_node_id if isinstance(view.spec, PeerSpec) else None


async def ask_node(mesh: Mesh, node: str, tool: str, arguments: Json, *, timeout_s: float) -> Json:
    """Have the management tool of another node answer, over the link to it.

    Raises:
        MeshError: no such node is connected, or it answers with an error, or not at all.
    """
    view = mesh.find_node(node)
    link = mesh.link(view.key) if view is not None else None
    if link is None:
        away = mesh.find_peer(node)
        if away is not None and not away.connected:
            raise MeshError(f"Node {node!r} is not connected: {away.said_error or away.state}.")
        raise MeshError(f"There is no node named {node!r} among this node's peers.")
    params: Json = {"name": tool, "arguments": arguments}
    try:
        result = await link.request(Request.within("tools/call", params, timeout_s=timeout_s))
    except RpcError as exc:
        raise MeshError(f"Node {node!r}: {exc.message}") from exc
    except MeshError as exc:
        raise MeshError(f"Node {node!r}: {exc.words('it')}") from exc
    told = result.get("structuredContent")
    if result.get("isError") is True or not isinstance(told, dict):
        texts = [str(part.get("text", "")) for part in result.get("content") or () if isinstance(part, dict)]
        raise MeshError(f"Node {node!r}: {' '.join(texts) or 'it gave no answer'}")
    return told
