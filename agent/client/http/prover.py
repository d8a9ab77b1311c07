"""The dialling side of a handshake between nodes, over HTTP, and its renewal when the other side has forgotten it.

Made by `agent.links.dial` for each dial of a node; `agent.client.http.pool` puts its proofs on requests and checks
those of answers. A node that hangs is knocked at, and asked anew when it goes on: an association that is not used means
nothing. The one rule: an association is renewed with the same node only; another one there is refused.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import orjson

from agent.client.http.awakening import Awakening
from agent.client.http.open_pool import open_pool
from agent.client.http.origin import port_of
from agent.client.http.pool import HttpPool, RequestBody
from agent.client.knocks import NAMED, Knocks
from agent.client.outbound import Outbound
from agent.errors import CallFailed, IdentityRefused, LinkFailed, ProtocolBroken, Unreachable
from agent.identity.association import Association
from agent.identity.node_key import NodeKey
from agent.late import Late
from agent.model import HANDSHAKE_SUFFIX, HttpTarget, Json

if TYPE_CHECKING:
    from agent.identity.handshake import Initiator

HANDSHAKE_TIMEOUT_S: Final = 10.0
_ANSWER_BYTES_MAX: Final = 16 * 1024
_OK: Final = 200
_UNAUTHORIZED: Final = 401
_FORBIDDEN: Final = 403
_UNAVAILABLE: Final = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Credentials:
    """What this node proves: that it has its key, and a secret of its mesh. `secrets`: the current one first.

    `name`: what it calls itself, which its certificate has to say where nodes show certificates.
    """

    key: NodeKey
    secrets: Callable[[], Sequence[bytes]]
    name: str = ""


def _import_initiator() -> "type[Initiator]":
    from agent.identity.handshake import Initiator  # noqa: PLC0415 - imports the cryptography, which many never need

    return Initiator


_INITIATOR: Final = Late(_import_initiator)


class Prover:
    """See the module. `local`: the local endpoint of the node; `members`: whether it has to be of this mesh."""

    def __init__(
        self,
        local: HttpTarget,
        credentials: Credentials,
        *,
        members: bool,
        connect_timeout_s: float,
        outbound: Outbound,
        knocks: Knocks = NAMED,
    ) -> None:
        self._local = local
        self._knocks = knocks
        self._credentials = credentials
        self._members = members
        self._connect_timeout_s = connect_timeout_s
        self._outbound = replace(outbound, prover=None)
        self._turn = asyncio.Lock()
        self._association: Association | None = None

    def __repr__(self) -> str:
        return f"<Prover {self._local.url.partition('?')[0]} {self._association!r}>"

    @property
    def association(self) -> Association:
        """The present one; only after `prove`."""
        assert self._association is not None, "nothing was proven yet"
        return self._association

    async def prove(self) -> Association:
        """Prove who we are and have the other side prove who it is.

        Raises:
            IdentityRefused: it does not prove it, or not that it belongs to this mesh.
            Unreachable, AuthRefused, ProtocolBroken, DialRefused: as for any request.
        """
        target = replace(self._local, url=_handshake_url(self._local.url))
        parts = urlsplit(target.url)
        authority = f"{_bracketed(parts.hostname or '')}:{port_of(parts)}"
        secrets = self._credentials.secrets() if self._members else (b"",)
        with open_pool(target, connect_timeout_s=self._connect_timeout_s, outbound=self._outbound) as pool:
            try:
                knocking = Awakening(partial(_knock, pool), knocks=self._knocks)
                async with asyncio.timeout(HANDSHAKE_TIMEOUT_S), knocking as awakening:
                    shake_hands = partial(self._shake_hands, pool, authority, secrets)
                    self._association = await awakening.answer(shake_hands, says_nothing=_says_nothing)
            except TimeoutError as exc:
                what = f"did not answer within {HANDSHAKE_TIMEOUT_S:g} s"
                raise Unreachable.about(pool.where, what, silent=True, hangs=True) from exc
            except CallFailed as exc:
                raise Unreachable.of(exc) from exc
        return self._association

    async def renew(self, stale: Association) -> None:
        """Have another association than `stale`, with the same node. Raises what `prove` raises."""
        async with self._turn:
            if self.association is not stale:
                return
            renewed = await self.prove()
            if renewed.peer != stale.peer:
                self._association = stale
                raise IdentityRefused(f"{self._local.url.partition('?')[0]} is node {renewed.peer.node_id} now")

    async def _shake_hands(self, pool: HttpPool, authority: str, secrets: Sequence[bytes]) -> Association:
        initiator_of = await _INITIATOR.get()
        refusal = IdentityRefused(f"{pool.where}: this node has no secret to prove that it belongs to a mesh")
        for secret in secrets:
            initiator = initiator_of(self._credentials.key, secret, authority)
            try:
                reply = await _said(pool, initiator.opening())
                last, association = initiator.confirm(reply)
                await _said(pool, {**last, "name": self._credentials.name})
            except IdentityRefused as exc:
                said = f"{pool.where} does not prove that it is a node of this mesh: {exc}"
                refusal = IdentityRefused(said).as_away(may_be_away=exc.may_be_away)
                continue
            return association
        raise refusal


def _handshake_url(local_url: str) -> str:
    parts = urlsplit(local_url)
    return parts._replace(path=parts.path.rstrip("/") + HANDSHAKE_SUFFIX).geturl()


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


async def _knock(pool: HttpPool) -> int:
    """The status of the refusal of what is no message of a handshake: a proxy may answer a GET itself.

    Raises `MeshError` where there is none.
    """
    response = await pool.post(RequestBody(b"{}", harmless=True), {})
    response.close()
    return response.status


def _says_nothing(failure: Exception) -> bool:
    """Whether it is no answer of the node's: another one that is open may get one."""
    return isinstance(failure, Unreachable | CallFailed) or (isinstance(failure, LinkFailed) and failure.may_be_away)


async def _said(pool: HttpPool, message: Json) -> Json:
    """The answer to one message. Raises `IdentityRefused` for a refusal; its text reads on after the URL."""
    response = await pool.post(RequestBody(orjson.dumps(message)), {})
    try:
        if response.status in _UNAVAILABLE:
            raise Unreachable.about(pool.where, f"answered HTTP {response.status}").as_said(response.status)
        body = bytearray()
        while part := await response.more():
            body += part
            if len(body) > _ANSWER_BYTES_MAX:
                raise ProtocolBroken(f"{pool.where} answers a handshake at length")
    except ConnectionError as exc:
        raise pool.failure(Unreachable, exc) from exc
    finally:
        response.close()
    try:
        said = orjson.loads(body)
    except ValueError:
        said = None
    if response.status == _OK and isinstance(said, dict):
        return said
    why = said.get("refused") if isinstance(said, dict) else None
    if response.status == _FORBIDDEN and isinstance(why, str):
        raise IdentityRefused(f"it refuses us: {why[:200]}")
    is_page = said is None and response.status not in (_UNAUTHORIZED, _FORBIDDEN)  # Perhaps of a proxy's.
    text = f"it answers no handshake (HTTP {response.status}); an older version, or no node"
    raise IdentityRefused(text).as_away(may_be_away=is_page)
