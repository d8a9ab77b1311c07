"""Proofs of requests and answers: each is taken once, in any order within the window, and from no other node."""

from hypothesis import given
from hypothesis import strategies as st

from agent.identity.association import WINDOW, Association, Proven

PEER = Proven("a-node", member=True)


def pair() -> tuple[Association, Association]:
    return tuple(Association("id", PEER, b"q" * 32, b"a" * 32) for _ in range(2))  # type: ignore[return-value]  # two


def shown(dialler: Association, number: int) -> tuple[str, str]:
    _, text, mac = dialler.request_proof(number).split(".")
    return text, mac


def test_a_request_is_taken_once_and_its_answer_is_known_by_its_proof() -> None:
    dialler, dialled = pair()
    number = dialler.next_number()
    assert dialled.takes(*shown(dialler, number)) == (number, True)
    assert dialled.takes(*shown(dialler, number)) == (number, False)
    assert dialler.is_answer(number, dialled.answer_proof(number))
    assert not dialler.is_answer(number, dialled.answer_proof(number + 1))
    assert not dialler.is_answer(number, dialler.request_proof(number).split(".")[2])
    assert not dialler.is_answer(number, "")


@given(st.permutations(range(1, 60)))
def test_numbers_that_overtake_each_other_are_all_taken_once(order: list[int]) -> None:
    dialler, dialled = pair()
    assert [dialled.takes(*shown(dialler, number)) for number in order] == [(number, True) for number in order]
    assert [dialled.takes(*shown(dialler, number)) for number in order] == [(number, False) for number in order]


def test_a_number_behind_the_window_is_refused_and_one_far_ahead_is_taken() -> None:
    dialler, dialled = pair()
    for number in (1, WINDOW + 1, 10 * WINDOW):
        assert dialled.takes(*shown(dialler, number)) == (number, True)
    assert dialled.takes(*shown(dialler, 9 * WINDOW)) == (9 * WINDOW, False)
    assert dialled.takes(*shown(dialler, 9 * WINDOW + 1)) == (9 * WINDOW + 1, True)


@given(st.text(max_size=40), st.text(max_size=40))
def test_no_text_is_a_proof_but_the_right_one(number: str, mac: str) -> None:
    _, dialled = pair()
    assert dialled.takes(number, mac) is None


def test_a_proof_under_another_key_is_none() -> None:
    _, dialled = pair()
    stranger = Association("id", PEER, b"x" * 32, b"y" * 32)
    assert dialled.takes(*shown(stranger, 1)) is None
    assert not stranger.is_answer(1, dialled.answer_proof(1))
