"""IDs that say what a session agreed: read by every node of the mesh, and by no other; in no clock but the test's."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.server.sessions.sealed_id import ID_LEN_MAX, LIFETIME_S, Agreed, SessionSeal, seal_keys

AGREED = Agreed("2025-11-25", b'{"elicitation":{},"roots":{"listChanged":true},"sampling":{}}')
NOW_S = 1_800_000_000.0


def seal(*secrets: str, service: str = "mcp-node", endpoint: str = "/mcp") -> SessionSeal:
    return SessionSeal(endpoint, lambda: seal_keys([secret.encode() for secret in secrets], service))


@given(version=st.sampled_from(["2024-11-05", "2025-03-26", "2025-11-25"]), declared=st.binary(max_size=300))
def test_what_was_agreed_is_read_from_the_id_by_another_node_of_the_mesh(version: str, declared: bytes) -> None:
    agreed = Agreed(version, declared)
    assert seal("secret").open(seal("secret").seal(agreed, NOW_S), NOW_S) == agreed


def test_an_id_is_visible_ascii_and_short_enough_for_a_header_line() -> None:
    session_id = seal("secret").seal(AGREED, NOW_S)
    assert session_id.isascii()
    assert session_id.isprintable()
    assert " " not in session_id
    assert len(session_id) < 200


def test_two_ids_of_the_same_agreement_differ() -> None:
    assert seal("secret").seal(AGREED, NOW_S) != seal("secret").seal(AGREED, NOW_S)


def test_an_id_of_another_mesh_endpoint_or_service_opens_nothing() -> None:
    session_id = seal("secret").seal(AGREED, NOW_S)
    for other in (
        seal("another"),
        seal("x", "y"),
        seal("secret", endpoint="/mcp/local"),
        seal("secret", service="other"),
    ):
        assert other.open(session_id, NOW_S) is None


def test_an_id_opens_until_it_expires_and_not_after() -> None:
    session_id = seal("secret").seal(AGREED, NOW_S)
    assert seal("secret").open(session_id, NOW_S + LIFETIME_S - 1) == AGREED
    assert seal("secret").open(session_id, NOW_S + LIFETIME_S) is None


def test_no_changed_character_goes_unnoticed() -> None:
    session_id = seal("secret").seal(AGREED, NOW_S)
    for at in range(len(session_id)):
        changed = session_id[:at] + ("A" if session_id[at] != "A" else "B") + session_id[at + 1 :]
        # Each bit counts: those of the last character that mean nothing have to be as they were written.
        assert seal("secret").open(changed, NOW_S) is None


@given(st.text())
def test_any_other_text_opens_nothing_and_raises_nothing(text: str) -> None:
    assert seal("secret").open(text, NOW_S) is None
    assert seal("secret").open(f"mesh1-{text}", NOW_S) is None


def test_another_spelling_of_an_id_opens_nothing() -> None:
    one = seal("secret")
    for sealed in (one.seal(AGREED, NOW_S) for _ in range(20)):
        assert one.open(sealed, NOW_S) == AGREED
        for other in (f"{sealed}=", f"{sealed}==", f"{sealed}\n", sealed.replace("_", "/"), sealed.replace("-", "+")):
            assert other == sealed or one.open(other, NOW_S) is None, other


def test_both_tokens_of_a_rotation_open_and_the_first_one_seals() -> None:
    before, during, after = seal("old"), seal("new", "old"), seal("new")
    assert during.open(before.seal(AGREED, NOW_S), NOW_S) == AGREED
    assert after.open(during.seal(AGREED, NOW_S), NOW_S) == AGREED
    assert after.open(before.seal(AGREED, NOW_S), NOW_S) is None


@pytest.mark.parametrize("size", [2_000, 8_192])
def test_more_than_an_id_can_carry_gets_one_that_only_its_own_node_knows(size: int) -> None:
    incompressible = random.Random(size).randbytes(size)
    session_id = seal("secret").seal(Agreed("2025-11-25", incompressible), NOW_S)
    assert len(session_id) <= ID_LEN_MAX
    assert seal("secret").open(session_id, NOW_S) is None
