"""The associations of a node with those that dialled it, from the first message of a handshake on.

Asked by `agent.rest.security` at every request that shows a proof, and by `agent.rest.handshake`. The one rule: what is
kept is bounded, and nothing is kept for a stranger who has neither the mesh's secret nor a client's token.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from agent.errors import IdentityRefused
from agent.identity.association import Association
from agent.identity.node_key import NodeKey
from agent.late import Late
from agent.model import Json

if TYPE_CHECKING:
    from agent.identity.handshake import Pending

# A node dials again when its association is gone, which costs it two round trips: the bound only holds memory.
ASSOCIATIONS_MAX: Final = 4_096
PENDING_MAX: Final = 2_048
# Of those that prove their key alone (gateways of other meshes), so that they cannot push members out.
STRANGERS_MAX: Final = 64
PENDING_S: Final = 10.0
# After a rotation the others show the former secret until they have read the new one.
SECRET_GRACE_S: Final = 30.0


def _import_handshake() -> Callable[..., tuple[Json, "Pending"]]:
    from agent.identity.handshake import reply_to  # noqa: PLC0415 - imports the cryptography, which many never need

    return reply_to


class _Table:
    """Handshakes that lack their last message, and associations; the oldest give way. Of members, or of strangers."""

    def __init__(self, pending_max: int, associations_max: int) -> None:
        self.pending: OrderedDict[str, tuple[Pending, float]] = OrderedDict()
        self.associations: OrderedDict[str, Association] = OrderedDict()
        self._pending_max = pending_max
        self._associations_max = associations_max

    def begin(self, share: str, pending: "Pending", now_s: float) -> None:
        """One for each share: an opening that is shown again gets no second place."""
        self.pending.pop(share, None)
        self.pending[share] = pending, now_s + PENDING_S
        while len(self.pending) > self._pending_max or next(iter(self.pending.values()))[1] <= now_s:
            self.pending.popitem(last=False)

    def begun(self, association_id: str, now_s: float) -> "Pending | None":
        """Take a handshake out."""
        for share, (pending, until_s) in self.pending.items():
            if pending.association_id == association_id and now_s < until_s:
                del self.pending[share]
                return pending
        return None

    def keep(self, association: Association) -> None:
        self.associations[association.id] = association
        while len(self.associations) > self._associations_max:
            self.associations.popitem(last=False)


class AssociationKeeper:
    """See the module. `secrets`: those of the mesh that are valid, the current one first. `now_s`: a steady clock.

    `heard` is called with the ID of a member at each of its requests.
    """

    def __init__(self, key: NodeKey, secrets: Sequence[bytes], now_s: Callable[[], float]) -> None:
        self._key = key
        self._now_s = now_s
        self._secrets = tuple(secrets)
        self._former: dict[bytes, float] = {}  # Until when.
        self._members = _Table(PENDING_MAX, ASSOCIATIONS_MAX)
        self._strangers = _Table(STRANGERS_MAX, STRANGERS_MAX)
        self._reply_to = Late(_import_handshake)
        self.heard: Callable[[str], None] = lambda _node_id: None

    def __repr__(self) -> str:
        return (
            f"<AssociationKeeper {len(self._members.associations)} members, {len(self._strangers.associations)} others>"
        )

    def replace_secrets(self, secrets: Sequence[bytes]) -> None:
        """Make these valid; those that are not among them stay so for `SECRET_GRACE_S`."""
        until_s = self._now_s() + SECRET_GRACE_S
        self._former |= {gone: until_s for gone in self._secrets if gone not in secrets}
        self._secrets = tuple(secrets)

    async def reply(self, message: Json, *, strangers: bool) -> Json:
        """The answer to either message of the side that dialled.

        `strangers`: whether it may prove its key alone. Raises `IdentityRefused`; its text is for the other side.
        """
        if "share" not in message:
            return self._complete(message)
        if not message.get("membership") and not strangers:  # Before anything costly is done.
            raise IdentityRefused("it shows neither that it belongs to this mesh nor a token")
        reply, pending = (await self._reply_to.get())(message, self._key, self.valid_secrets())
        table = self._members if pending.secret else self._strangers
        table.begin(message["share"], pending, self._now_s())
        return reply

    def of(self, shown: str) -> tuple[Association, int, bool] | None:
        """Whose request shows this proof, its number, and whether that is new; None for an unknown or forged one."""
        association_id, _, rest = shown.partition(".")
        number_text, _, mac = rest.partition(".")
        for table in (self._members, self._strangers):
            association = table.associations.get(association_id)
            if association is not None:
                break
        else:
            return None
        taken = association.takes(number_text, mac) if self._is_valid(association.secret) else None
        if taken is None:
            return None
        table.associations.move_to_end(association_id)
        if association.secret:
            self.heard(association.peer.node_id)
        return association, *taken

    def _complete(self, message: Json) -> Json:
        association_id = message.get("association")
        for table in (self._members, self._strangers):
            pending = table.begun(association_id, self._now_s()) if isinstance(association_id, str) else None
            if pending is not None:
                association = pending.complete(message)
                table.keep(association)
                return {"association": association.id}
        raise IdentityRefused("no such handshake is under way; begin again")

    def valid_secrets(self) -> tuple[bytes, ...]:
        """The current ones, then those of other nodes that may not have read the new one yet."""
        now_s = self._now_s()
        self._former = {secret: until_s for secret, until_s in self._former.items() if now_s < until_s}
        return (*self._secrets, *self._former)

    def _is_valid(self, secret: bytes) -> bool:
        return not secret or secret in self._secrets or secret in self.valid_secrets()
