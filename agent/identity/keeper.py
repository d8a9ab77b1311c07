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
PENDING_MAX: Final = 256
PENDING_S: Final = 10.0
# After a rotation the others show the former secret until they have read the new one.
SECRET_GRACE_S: Final = 30.0


def _import_handshake() -> Callable[..., tuple[Json, "Pending"]]:
    from agent.identity.handshake import reply_to  # noqa: PLC0415 - imports the cryptography, which many never need

    return reply_to


class AssociationKeeper:
    """See the module. `secrets`: those of the mesh that are valid, the current one first. `now_s`: a steady clock."""

    def __init__(self, key: NodeKey, secrets: Sequence[bytes], now_s: Callable[[], float]) -> None:
        self._key = key
        self._now_s = now_s
        self._secrets = tuple(secrets)
        self._former: dict[bytes, float] = {}  # Until when.
        self._pending: OrderedDict[str, tuple[Pending, float]] = OrderedDict()
        self._associations: OrderedDict[str, Association] = OrderedDict()
        self._reply_to = Late(_import_handshake)

    def __repr__(self) -> str:
        return f"<AssociationKeeper {len(self._associations)} associations, {len(self._pending)} pending>"

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
        reply, pending = (await self._reply_to.get())(message, self._key, self.valid_secrets())
        if not pending.secret and not strangers:
            raise IdentityRefused("it shows neither that it belongs to this mesh nor a token")
        now_s = self._now_s()
        self._pending[pending.association_id] = pending, now_s + PENDING_S
        while len(self._pending) > PENDING_MAX or next(iter(self._pending.values()))[1] <= now_s:
            self._pending.popitem(last=False)
        return reply

    def of(self, shown: str) -> tuple[Association, int] | None:
        """Whose request shows this proof, and its number; None for one that is unknown, forged or was seen before."""
        association_id, _, rest = shown.partition(".")
        number_text, _, mac = rest.partition(".")
        association = self._associations.get(association_id)
        if association is None or not self._is_valid(association.secret):
            return None
        number = association.takes(number_text, mac)
        if number is None:
            return None
        self._associations.move_to_end(association_id)
        return association, number

    def _complete(self, message: Json) -> Json:
        association_id = message.get("association")
        pending, until_s = (
            self._pending.pop(association_id, (None, 0.0)) if isinstance(association_id, str) else (None, 0.0)
        )
        if pending is None or until_s <= self._now_s():
            raise IdentityRefused("no such handshake is under way; begin again")
        association = pending.complete(message)
        self._associations[association.id] = association
        while len(self._associations) > ASSOCIATIONS_MAX:
            self._associations.popitem(last=False)
        return {"association": association.id}

    def valid_secrets(self) -> tuple[bytes, ...]:
        """The current ones, then those that others may have who have not read the new one yet."""
        now_s = self._now_s()
        self._former = {secret: until_s for secret, until_s in self._former.items() if now_s < until_s}
        return (*self._secrets, *self._former)

    def _is_valid(self, secret: bytes) -> bool:
        return not secret or secret in self._secrets or secret in self.valid_secrets()
