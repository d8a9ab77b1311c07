"""The reading of a server's refusal, and the scopes of the next request for a token."""

import time

import pytest

from agent.client.oauth.challenge import (
    HEADER_LEN_MAX,
    SCOPES_MAX,
    Challenge,
    WantedScopes,
    read_challenge,
    written_challenge,
)

META = "https://crm.example/.well-known/oauth-protected-resource/mcp"


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (
            f'Bearer error="insufficient_scope", scope="a:b c", resource_metadata="{META}", error_description="x=y"',
            Challenge("insufficient_scope", ("a:b", "c"), META),
        ),
        ("Bearer error=insufficient_scope,scope=one", Challenge("insufficient_scope", ("one",))),
        ('Bearer scope="a a b", SCOPE="c"', Challenge(scopes=("a", "b"))),
        ('Bearer scope="a\\ \u202eb é c"', Challenge(scopes=("c",))),
        ('Bearer scope="a', Challenge()),
        ("Basic", Challenge()),
        ("", Challenge()),
    ],
)
def test_a_refusal_says_what_is_missing_and_where_the_metadata_are(header: str, said: Challenge) -> None:
    assert read_challenge(header) == said


def test_a_refusal_beyond_all_measure_is_read_in_no_time_up_to_a_bound() -> None:
    began_s = time.process_time()
    for header in ('a="' * 100_000, "a=" * 100_000, " " * 100_000, 'scope="' + "x" * 100_000):
        assert read_challenge(header).scopes == ()
    many = " ".join(f"s{number}" for number in range(500))
    assert len(read_challenge(f'Bearer scope="{many}"').scopes) == SCOPES_MAX
    assert len(many) < HEADER_LEN_MAX
    assert time.process_time() - began_s < 1


def test_what_is_written_is_read_again_with_each_scope_once() -> None:
    written = written_challenge(META, ("a", "b", "a"))
    assert written == f'Bearer resource_metadata="{META}", scope="a b"'
    assert read_challenge(written) == Challenge(scopes=("a", "b"), metadata=META)
    assert written_challenge("", ()) == "Bearer"


def test_scopes_that_requests_have_lacked_are_wanted_beside_those_that_a_token_had() -> None:
    wanted = WantedScopes("crm", limited=False)
    first = written_challenge(META, ("read",))
    assert wanted.asked_with(first, ("had",)) == first
    assert wanted.lacked(Challenge("insufficient_scope", ("write",)))
    assert not wanted.lacked(Challenge("insufficient_scope", ("write",)))
    assert read_challenge(wanted.asked_with(first, ("had",))) == Challenge(
        scopes=("had", "read", "write"), metadata=META
    )
    assert wanted.hint() == ""
    wanted.missing = ("write",)
    assert wanted.hint() == "calls want the scopes write: mesh-agent servers login crm"
