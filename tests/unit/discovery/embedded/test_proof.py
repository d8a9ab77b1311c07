"""What a node and an embedded catalog say to each other before the node shows its token."""

import pytest

from discovery.embedded.proof import challenge, new_number, proof, proven_run, token

OURS, FORMER, OTHER = b"ours", b"former", b"other"
AT = "127.0.0.1:8520"


@pytest.mark.parametrize(
    ("asks", "answers"), [([OURS], [OURS]), ([OURS, FORMER], [FORMER]), ([FORMER], [OURS, FORMER])]
)
def test_a_catalog_with_one_of_the_keys_proves_its_run(asks: list[bytes], answers: list[bytes]) -> None:
    number, run = new_number(), new_number()
    assert proven_run(asks, proof(answers, challenge(asks, number, AT), AT, run), number, AT) == run


def test_what_has_no_key_of_ours_gets_no_answer_and_gives_none_that_is_believed() -> None:
    number, run = new_number(), new_number()
    assert proof([OURS], challenge([OTHER], number, AT), AT, run) == ""
    assert proof([OURS], number, AT, run) == ""
    false = proof([OTHER], challenge([OTHER], number, AT), AT, run)
    assert false
    assert proven_run([OURS], false, number, AT) == ""


def test_an_answer_counts_for_its_own_number_and_address_alone() -> None:
    number, run, elsewhere = new_number(), new_number(), "127.0.0.1:8521"
    asked = challenge([OURS], number, AT)
    said = proof([OURS], asked, AT, run)
    assert proven_run([OURS], said, new_number(), AT) == ""
    assert proven_run([OURS], said, number, elsewhere) == ""
    assert proven_run([OURS], said.replace(run, new_number()), number, AT) == ""
    assert proof([OURS], asked, elsewhere, run) == "", "a relay to a catalog at another address"


@pytest.mark.parametrize(
    "shown", ["", ".", "x" * 32, "0" * 32 + ".", "0" * 32 + "." + "0" * 63, "\u0660" * 32, "0" * 9_999]
)
def test_what_is_no_challenge_or_no_proof_is_refused_without_a_fault(shown: str) -> None:
    assert proof([OURS], shown, AT, new_number()) == ""
    assert proven_run([OURS], shown, new_number(), AT) == ""


def test_tokens_differ_by_key_address_and_run_and_are_none_of_the_other_words() -> None:
    number, run = new_number(), new_number()
    tokens = {token(OURS, AT, run), token(OTHER, AT, run), token(OURS, "127.0.0.1:1", run), token(OURS, AT, number)}
    assert len(tokens) == 4
    asked = challenge([OURS], number, AT)
    said = asked + proof([OURS], asked, AT, run)
    assert not any(one in said for one in tokens)
