"""Grants: which names they allow, what binds what their holders begin, and when they end."""

import pytest

from agent.authority.grant import ANYONE, BY_SHORT_FORM, WHOLE, Grant, Reach, Scope, reach_of


@pytest.mark.parametrize(
    ("tools", "allowed", "refused"),
    [
        ((), ["a__b", "list_mcp_servers"], []),
        (("a__*",), ["a__b", "a__"], ["b__a", "aa__b", "A__b"]),
        (("!a__drop*",), ["a__b", "b__drop"], ["a__drop", "a__drop_all"]),
        (("a__*", "!a__drop"), ["a__b"], ["a__drop", "b__c"]),
        (("!*",), [], ["a__b", ""]),
        (("a__[bc]",), ["a__b", "a__c"], ["a__d", "a__[bc]"]),
    ],
)
def test_patterns_decide_about_names(tools: tuple[str, ...], allowed: list[str], refused: list[str]) -> None:
    reach = Reach(tools)
    assert [reach.has_name(name) for name in allowed] == [True] * len(allowed)
    assert [reach.has_name(name) for name in refused] == [False] * len(refused)


def test_no_tools_in_the_file_are_all_an_empty_list_is_none_and_a_star_is_no_limit() -> None:
    assert reach_of(Scope, None, read_only=False) == WHOLE
    assert reach_of(Scope, ("*",), read_only=False) == WHOLE
    assert not reach_of(Scope, (), read_only=False).has_name("a__b")
    assert WHOLE.key == ""


def test_what_of_the_node_is_shown_follows_from_the_scopes() -> None:
    shown = {scope: reach_of({scope}, None, read_only=False) for scope in Scope}
    assert [scope for scope in Scope if shown[scope].reloads] == [Scope.ADMIN]
    assert [scope for scope in Scope if shown[scope].reads_node] == [Scope.READ, Scope.ADMIN]


def test_tokens_of_one_reach_share_its_key_and_others_do_not() -> None:
    reaches = [Reach(("a",)), Reach(("b",)), Reach(("a", "b")), Reach(read_only=True), Reach(reloads=False)]
    assert len({reach.key for reach in reaches}) == len(reaches)
    assert Reach(("a",)).key == Reach(("a",)).key


def test_what_is_begun_is_bound_to_a_name_and_its_making_and_sessions_to_the_reach_as_well() -> None:
    token, anew = Grant("ci", made="1"), Grant("ci", made="2")
    assert len({token.realm, anew.realm, Grant("ops", made="1").realm}) == 3
    wider = Grant("ci", made="1", reach=Reach(("a",)))
    assert (wider.realm, wider.binding) == (token.realm, f"{token.realm}/{wider.reach.key}")
    assert {grant.realm for grant in (BY_SHORT_FORM, ANYONE)} == {grant.binding for grant in (BY_SHORT_FORM, ANYONE)}
    assert BY_SHORT_FORM.realm == ""


def test_a_grant_ends_at_its_moment_and_not_before() -> None:
    assert [Grant("a", until_s=10.0).has_ended(now_s) for now_s in (9.9, 10.0)] == [False, True]
    assert not Grant("a").has_ended(1e12)
