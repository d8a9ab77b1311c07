"""Names and URIs: legal, stable, and distinct."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.model import PUBLIC_NAME_LEN_MAX, PUBLIC_NAME_LEN_MIN
from agent.routing.names import (
    is_name_of,
    is_valid_name,
    local_uri,
    may_begin_with,
    name_beginning,
    node_alias,
    public_name,
    public_uri,
    shown_name,
    uri_namespace,
    valid_name,
)

LEGAL = re.compile(r"[A-Za-z0-9_-]{1,64}")
NAMESPACES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,30}", fullmatch=True)
URIS = st.one_of(
    st.text(max_size=40),
    st.builds(
        "{}{}{}".format,
        st.sampled_from(["notes", "my_scheme", "http", ""]),
        st.sampled_from([":", "://", ""]),
        st.text("ab/{}:?#", max_size=12),
    ),
)


@pytest.mark.parametrize("name", ["a", "node-2", "web.1_x", "0", "a" * 63, "a_"])
def test_a_name_of_letters_digits_dots_dashes_and_single_underscores_is_valid(name: str) -> None:
    assert is_valid_name(name)


@pytest.mark.parametrize("name", ["", "-a", ".a", "_a", "a b", "a/b", "a__b", "a" * 64, "ä", "a\n", "../x"])
def test_other_names_are_not_valid(name: str) -> None:
    assert not is_valid_name(name)


@given(st.text(max_size=200))
@example("__")
@example("a__b")
def test_a_valid_name_can_be_made_of_any_text(text: str) -> None:
    assert is_valid_name(valid_name(text))


def test_a_valid_name_stays_as_it_is() -> None:
    assert valid_name("node-2.local") == "node-2.local"


@given(st.text(max_size=80), st.text(max_size=80))
def test_two_illegal_names_do_not_become_one(one: str, other: str) -> None:
    if not is_valid_name(one) and not is_valid_name(other):
        assert (valid_name(one) == valid_name(other)) == (one == other)


@given(st.lists(st.text(max_size=60), min_size=1, max_size=4))
def test_a_public_name_is_legal_whatever_it_is_made_of(parts: list[str]) -> None:
    assert LEGAL.fullmatch(public_name(*parts))


@given(
    st.lists(st.text("ab_-.", max_size=40), min_size=2, max_size=3),
    st.lists(st.text("ab_-.", max_size=40), min_size=2, max_size=3),
)
def test_two_joined_names_never_become_one(one: list[str], other: list[str]) -> None:
    assert (public_name(*one) == public_name(*other)) == ("__".join(one) == "__".join(other))


def test_a_legal_public_name_is_the_parts_joined() -> None:
    assert public_name("node-2", "files", "read_file") == "node-2__files__read_file"


def test_a_long_public_name_keeps_its_beginning_and_differs_by_its_end() -> None:
    one, other = public_name("server", "x" * 100), public_name("server", "x" * 101)
    assert one.startswith("server__xxx")
    assert len(one) == len(other) == 64
    assert one != other


def test_shortened_names_are_the_same_in_every_release() -> None:
    """Other nodes compute them too, so a change of the form would rename tools in the middle of an upgrade."""
    assert public_name("node.local", "fs", "read") == "node-local__fs__read-97d64e1ecc"


LIMITS = st.integers(PUBLIC_NAME_LEN_MIN, PUBLIC_NAME_LEN_MAX)
PARTS = st.lists(st.text("abXY19_-.", min_size=1, max_size=50), min_size=2, max_size=3)


@given(PARTS, LIMITS)
def test_a_shown_name_is_legal_fits_the_limit_and_stands_for_its_parts(parts: list[str], len_max: int) -> None:
    shown = shown_name(*parts, len_max=len_max)
    assert LEGAL.fullmatch(shown)
    assert len(shown) <= len_max
    assert is_name_of(shown, *parts)
    assert is_name_of(public_name(*parts), *parts)
    assert may_begin_with(shown, name_beginning(*parts[:-1]))
    assert may_begin_with(public_name(*parts), name_beginning(*parts[:-1]))


@given(PARTS, PARTS, LIMITS)
def test_two_shown_names_never_become_one(one: list[str], other: list[str], len_max: int) -> None:
    if "__".join(one) != "__".join(other):
        assert shown_name(*one, len_max=len_max) != shown_name(*other, len_max=len_max)
        assert not is_name_of(shown_name(*one, len_max=len_max), *other)


@given(PARTS)
def test_a_name_that_fits_is_the_same_between_nodes_and_for_clients(parts: list[str]) -> None:
    if len(public_name(*parts)) < PUBLIC_NAME_LEN_MAX:
        assert shown_name(*parts) == public_name(*parts)


# One of each pair differs from the other where a bare cut takes the difference away.
@pytest.mark.parametrize("len_max", [48, 64])
@pytest.mark.parametrize(
    ("parts", "sibling", "told_apart_by"),
    [
        (
            ("production-frankfurt-node-1", "github-enterprise-server", "create_pull_request_review"),
            ("production-frankfurt-node-1", "github-enterprise-server", "delete_pull_request_review"),
            ("create", "delete"),
        ),
        (
            ("warehouse", "list_all_invoices_of_one_customer_by_date_of_payment_with_archived"),
            ("warehouse", "list_all_invoices_of_one_customer_by_date_of_payment_without_archived"),
            ("with_archived", "hout_archived"),
        ),
        (
            ("production-frankfurt-node-1", "observability-and-tracing", "query_traces"),
            ("production-frankfurt-node-1", "observability-and-logging", "query_traces"),
            ("tracing__", "logging__"),
        ),
    ],
)
def test_shortening_keeps_what_tells_siblings_apart(
    parts: tuple[str, ...], sibling: tuple[str, ...], told_apart_by: tuple[str, str], len_max: int
) -> None:
    for name, part in zip((parts, sibling), told_apart_by, strict=True):
        assert part in shown_name(*name, len_max=len_max)
    one, other = (shown_name(*name, len_max=len_max).rpartition("-")[0] for name in (parts, sibling))
    assert one != other, "without the digest, which no reader can tell"


def test_shortened_names_for_clients_are_the_same_in_every_release() -> None:
    """A model remembers them, and people write them into lists of what is allowed."""
    parts = ("production-frankfurt-node-1", "github-enterprise", "create_pull_request_review")
    assert shown_name(*parts) == "production-f-b-enterprise__create_pull_request_review-1820adb0d9"
    assert shown_name(*parts, len_max=48) == "produ-prise__create_pull-quest_review-1820adb0d9"


@given(NAMESPACES, URIS)
@example("ns", "notes://{id}")
@example("ns", "data:/x")
@example("ns", "{scheme}://x")
@example("ns", "//x")
@example("ns", "a:ns//x")
def test_a_public_uri_leads_back_to_its_namespace_and_its_own_uri(namespace: str, uri: str) -> None:
    public = public_uri(namespace, uri)
    assert uri_namespace(public) == namespace
    assert local_uri(namespace, public) == uri


@given(NAMESPACES, NAMESPACES, URIS)
def test_a_public_uri_belongs_to_one_namespace_only(namespace: str, other: str, uri: str) -> None:
    if namespace != other:
        assert local_uri(other, public_uri(namespace, uri)) is None


@pytest.mark.parametrize(
    ("uri", "public"),
    [
        ("notes://today", "notes://srv/today"),
        ("notes://{id}/x", "notes://srv/{id}/x"),
        ("file:///etc/hosts", "file://srv//etc/hosts"),
        ("mailto:a@b", "mailto:srv/a@b"),
        ("plain", "srv/plain"),
    ],
)
def test_the_namespace_goes_where_fastmcp_puts_it(uri: str, public: str) -> None:
    assert public_uri("srv", uri) == public


@pytest.mark.parametrize("uri", ["notes://", "notes:///x", "mailto:", "", "x"])
def test_a_uri_without_a_first_segment_has_no_namespace(uri: str) -> None:
    assert uri_namespace(uri) is None


def test_an_alias_tells_nodes_of_one_name_apart_and_is_a_valid_name() -> None:
    alias = node_alias("a" * 63, "1A2B3C4D-5e6f")
    assert alias.endswith("-1a2b3c4d")
    assert is_valid_name(alias)
    assert node_alias("node-2", "1a2b3c4d5e6f") == "node-2-1a2b3c4d"
