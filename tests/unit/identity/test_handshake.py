"""The handshake between nodes: who gets through, who does not, and what both have afterwards."""

import base64
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import IdentityRefused
from agent.identity.association import Association
from agent.identity.handshake import Initiator, NotAMember, reply_to
from agent.identity.node_key import NodeKey, node_id_of
from agent.model import Json

HERE, THERE, THIEF = NodeKey(b"h" * 32), NodeKey(b"t" * 32), NodeKey(b"x" * 32)
SECRET, OTHER = b"s" * 32, b"o" * 32
AUTHORITY = "10.0.0.7:8000"
ANOTHER_SHARE = X25519PrivateKey.from_private_bytes(b"p" * 32).public_key().public_bytes_raw()


def shaken(
    secret: bytes = SECRET, known: tuple[bytes, ...] = (SECRET,), **changed: dict[str, Any]
) -> tuple[Association, Association]:
    """Both halves; `changed`: fields that a third party replaces in the `opening`, `reply` or `last` message."""
    initiator = Initiator(HERE, secret, AUTHORITY)
    reply, pending = reply_to({**initiator.opening(), **changed.get("opening", {})}, THERE, known)
    last, association = initiator.confirm({**reply, **changed.get("reply", {})})
    return association, pending.complete({**last, **changed.get("last", {})})


def text(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).decode()


def test_each_learns_the_key_of_the_other_and_both_have_the_same_association() -> None:
    ours, theirs = shaken()
    assert ours.peer.node_id == THERE.node_id
    assert theirs.peer.node_id == HERE.node_id
    assert ours.peer.member
    assert theirs.peer.member
    assert ours.id == theirs.id
    number = ours.next_number()
    assert theirs.takes(*ours.request_proof(number).split(".")[1:]) == (number, True)
    assert ours.is_answer(number, theirs.answer_proof(number))


def test_a_former_secret_that_is_still_valid_lets_a_member_through() -> None:
    assert shaken(OTHER, (SECRET, OTHER))[1].secret == OTHER


def test_another_secret_is_refused_before_anything_is_signed() -> None:
    with pytest.raises(NotAMember, match="another secret"):
        shaken(OTHER)


def test_without_a_secret_the_keys_alone_are_proven() -> None:
    ours, theirs = shaken(b"")
    assert (ours.peer.node_id, ours.peer.member) == (THERE.node_id, False)
    assert (theirs.peer.node_id, theirs.peer.member) == (HERE.node_id, False)


def test_a_node_that_answers_without_knowing_the_secret_proves_nothing() -> None:
    initiator = Initiator(HERE, SECRET, AUTHORITY)
    reply, _ = reply_to({**initiator.opening(), "membership": ""}, THIEF, ())
    with pytest.raises(NotAMember):
        initiator.confirm(reply)


def test_two_handshakes_have_nothing_in_common() -> None:
    (one, _), (other, _) = shaken(), shaken()
    assert one.id != other.id
    assert one.request_proof(1).split(".")[2] != other.request_proof(1).split(".")[2]


@pytest.mark.parametrize(
    ("message", "field", "value"),
    [
        ("opening", "share", text(ANOTHER_SHARE)),
        ("opening", "authority", "10.0.0.8:8000"),
        ("opening", "membership", ""),
        ("opening", "membership", text(b"m" * 32)),
        ("reply", "share", text(ANOTHER_SHARE)),
        ("reply", "association", "another"),
        ("reply", "key", text(THIEF.public)),
        ("reply", "signature", text(THIEF.sign(b"anything"))),
        ("reply", "mac", text(b"m" * 32)),
        ("last", "key", text(THIEF.public)),
        ("last", "signature", text(THIEF.sign(b"anything"))),
        ("last", "mac", text(b"m" * 32)),
    ],
)
def test_whatever_is_replaced_on_the_way_ends_the_handshake(message: str, field: str, value: str) -> None:
    with pytest.raises(IdentityRefused):
        shaken(**{message: {field: value}})


def test_messages_of_another_handshake_cannot_be_shown_again() -> None:
    initiator = Initiator(HERE, SECRET, AUTHORITY)
    opening = initiator.opening()
    reply, first = reply_to(opening, THERE, (SECRET,))
    last, _ = initiator.confirm(reply)
    first.complete(last)
    _, second = reply_to(opening, THERE, (SECRET,))
    with pytest.raises(IdentityRefused):
        second.complete(last)


FIELDS = ("share", "authority", "membership", "association", "key", "signature", "mac")
VALUES = st.one_of(
    st.none(), st.integers(), st.text(max_size=60), st.binary(max_size=64).map(text), st.lists(st.text(max_size=3))
)


@given(st.one_of(st.none(), st.text(), st.dictionaries(st.sampled_from(FIELDS), VALUES)))
def test_no_message_raises_anything_but_a_refusal(message: Json) -> None:
    initiator = Initiator(HERE, SECRET, AUTHORITY)
    _, pending = reply_to(initiator.opening(), THERE, (SECRET,))
    for step in (lambda: reply_to(message, THERE, (SECRET,)), lambda: initiator.confirm(message)):
        try:
            step()
        except IdentityRefused:
            continue
    with pytest.raises(IdentityRefused):
        pending.complete(message)


def test_a_node_id_belongs_to_one_key_and_is_a_uuid_of_its_own_kind() -> None:
    assert HERE.node_id == node_id_of(HERE.public) != THERE.node_id
    assert NodeKey(HERE.seed).node_id == HERE.node_id
    assert NodeKey(bytes(32)).node_id == "0f8816d0-5ce8-8113-b565-61da354bc08e"
    with pytest.raises(ValueError, match="32 bytes"):
        NodeKey(b"short")
