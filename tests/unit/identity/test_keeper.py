"""The associations that a node keeps: bounded, renewed by a handshake, and gone when their secret is."""

import pytest

from agent.errors import IdentityRefused
from agent.identity import keeper as keeping
from agent.identity.association import Association
from agent.identity.handshake import Initiator
from agent.identity.keeper import PENDING_S, SECRET_GRACE_S, AssociationKeeper
from agent.identity.node_key import NodeKey

HERE, THERE = NodeKey.new(), NodeKey.new()
SECRET, NEXT = b"s" * 32, b"n" * 32


class Place:
    """A keeper and the clock that it reads."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.keeper = AssociationKeeper(THERE, (SECRET,), lambda: self.now_s)

    async def associated(self, secret: bytes = SECRET, *, strangers: bool = False) -> Association:
        initiator = Initiator(HERE, secret, "10.0.0.7:8000")
        reply = await self.keeper.reply(initiator.opening(), strangers=strangers)
        last, association = initiator.confirm(reply)
        await self.keeper.reply(last, strangers=strangers)
        return association

    def knows(self, association: Association) -> bool:
        found = self.keeper.of(association.request_proof(association.next_number()))
        return found is not None and found[0].peer.node_id == HERE.node_id


async def test_an_association_is_known_by_its_proofs_until_it_is_the_oldest_of_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keeping, "ASSOCIATIONS_MAX", 3)
    place = Place()
    first, *_others = [await place.associated() for _ in range(3)]
    assert place.knows(first)  # What is used stays.
    later = await place.associated()
    assert place.knows(first)
    assert place.knows(later)
    assert not place.knows(_others[0])


async def test_a_stranger_gets_a_reply_only_where_strangers_may_prove_themselves() -> None:
    place = Place()
    with pytest.raises(IdentityRefused, match="nor a token"):
        await place.associated(b"")
    association = await place.associated(b"", strangers=True)
    assert place.knows(association)
    assert not association.peer.member


async def test_a_handshake_that_is_not_finished_in_time_has_to_begin_again() -> None:
    place = Place()
    initiator = Initiator(HERE, SECRET, "10.0.0.7:8000")
    last, _ = initiator.confirm(await place.keeper.reply(initiator.opening(), strangers=False))
    place.now_s += PENDING_S
    with pytest.raises(IdentityRefused, match="begin again"):
        await place.keeper.reply(last, strangers=False)


async def test_an_opening_that_is_shown_again_takes_no_other_place_and_the_later_reply_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keeping, "PENDING_MAX", 2)
    place = Place()
    first = Initiator(HERE, SECRET, "10.0.0.7:8000")
    last, _ = first.confirm(await place.keeper.reply(first.opening(), strangers=False))
    other = Initiator(HERE, SECRET, "10.0.0.7:8000")
    for _ in range(10):
        await place.keeper.reply(other.opening(), strangers=False)
    assert await place.keeper.reply(last, strangers=False)


async def test_strangers_push_no_member_out_and_cost_no_key_where_they_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keeping, "STRANGERS_MAX", 2)
    place = Place()
    member = await place.associated()
    initiator = Initiator(HERE, SECRET, "10.0.0.7:8000")
    last, _ = initiator.confirm(await place.keeper.reply(initiator.opening(), strangers=False))
    strangers = [await place.associated(b"", strangers=True) for _ in range(5)]
    assert [place.knows(one) for one in strangers] == [False] * 3 + [True] * 2
    assert place.knows(member)
    assert await place.keeper.reply(last, strangers=False)

    async def no_key() -> None:
        raise AssertionError("a stranger had a key made")

    monkeypatch.setattr(place.keeper._reply_to, "get", no_key)
    with pytest.raises(IdentityRefused, match="nor a token"):
        await place.associated(b"")


async def test_unfinished_handshakes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "PENDING_MAX", 2)
    place = Place()
    lasts = []
    for _ in range(3):
        initiator = Initiator(HERE, SECRET, "10.0.0.7:8000")
        lasts.append(initiator.confirm(await place.keeper.reply(initiator.opening(), strangers=False))[0])
    with pytest.raises(IdentityRefused, match="begin again"):
        await place.keeper.reply(lasts[0], strangers=False)
    for last in lasts[1:]:
        assert await place.keeper.reply(last, strangers=False)


async def test_after_a_rotation_the_former_secret_is_good_for_a_grace_and_its_associations_end_with_it() -> None:
    place = Place()
    before = await place.associated()
    place.keeper.replace_secrets((NEXT,))
    during = await place.associated()
    after = await place.associated(NEXT)
    assert place.knows(before)
    assert place.knows(during)
    place.now_s += SECRET_GRACE_S
    assert not place.knows(before)
    assert not place.knows(during)
    assert place.knows(after)
    with pytest.raises(IdentityRefused, match="another secret"):
        await place.associated()


@pytest.mark.parametrize("shown", ["", ".", "..", "a.b.c", "unknown", "x" * 5_000])
def test_what_is_no_proof_of_ours_names_no_node(shown: str) -> None:
    assert Place().keeper.of(shown) is None


async def test_a_member_is_heard_of_at_each_request_and_a_stranger_never() -> None:
    place, heard = Place(), list[str]()
    place.keeper.heard = heard.append
    member, stranger = await place.associated(), await place.associated(b"", strangers=True)
    assert place.knows(member)
    assert place.knows(member)
    assert place.knows(stranger)
    assert not place.keeper.of(f"{member.id}.99.forged")
    assert heard == [HERE.node_id, HERE.node_id]
