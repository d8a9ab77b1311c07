"""The views file and the `views` section of the servers file: what is read, what is left out and why, what stays."""

from pathlib import Path

import pytest

from agent.config.servers_file import check_servers
from agent.config.views_file import check_views, read_views
from agent.errors import ConfigRefused
from agent.model import ViewSpec

PATH = Path("/etc/mesh/views.json")


def test_a_view_has_servers_tags_tools_aliases_and_descriptions() -> None:
    text = """{"views": {"team": {"servers": ["git*"], "tags": ["ops"], "tools": ["a__*", "!a__b"],
      "aliases": {"a__c": "c"}, "descriptions": {"a__c": "See."}, "title": "Team", "description": "Ours."}}} // more"""
    assert check_views(text, PATH, required=True).views == {
        "team": ViewSpec(
            ("git*",), ("ops",), ("a__*", "!a__b"), {"a__c": "c"}, {"a__c": "See."}, title="Team", description="Ours."
        )
    }


@pytest.mark.parametrize(
    ("view", "place", "words"),
    [
        ("[]", "2: views.team", "must be an object"),
        ("{}", "2: views.team", "selects nothing"),
        ('{"servers": "github"}', "2: views.team.servers", "must be an array"),
        ('{"servers": ["a", 7]}', "2: views.team.servers[1]", "must be text"),
        ('{"servers": ["a/b"]}', "2: views.team.servers[0]", "must be text"),
        ('{"tools": ["a"], "alias": {}}', "2: views.team.alias", "is not known; a view has servers, tags, tools"),
        ('{"tools": ["a"],\n"aliases": {"a": "b c"}}', "3: views.team.aliases.a", "64 letters"),
        ('{"tools": ["a"], "aliases": {"a": "x", "b": "x"}}', "2: views.team.aliases.a", "alias of another tool"),
        ('{"tools": ["a"], "aliases": {"a": "call_tool"}}', "2: views.team.aliases.a", "a tool of search mode"),
        ('{"tools": ["a"], "descriptions": {"a": 1}}', "2: views.team.descriptions.a", "must be text"),
        ('{"tools": ["a"], "tools": ["b"]}', "2: views.team.tools", "second time"),
    ],
)
def test_a_bad_view_is_left_out_with_its_field_and_the_rest_is_used(view: str, place: str, words: str) -> None:
    text = f'{{"views": {{"good": {{"servers": ["a"]}},\n"team": {view}}}}}'
    read = check_views(text, PATH, required=True)
    assert list(read.views) == ["good"]
    reason = read.left_out["team"][0]
    assert reason.startswith(f"{PATH}:{place}"), reason
    assert words in reason


def test_a_file_without_views_is_refused_with_an_example() -> None:
    with pytest.raises(ConfigRefused, match=r'must be an object like \{"views"'):
        check_views("{}", PATH, required=True)
    assert not check_views("{}", PATH, required=False).views


def test_the_last_good_views_stay_while_a_file_or_a_view_cannot_be_used(tmp_path: Path) -> None:
    views, servers = tmp_path / "views.json", tmp_path / "servers.json"
    servers.write_text('{"mcpServers": {}, "views": {"team": {"servers": ["a"]}, "ops": {"tags": ["ops"]}}}')
    views.write_text('{"views": {"team": {"servers": ["b"]}}}')
    first = read_views(views, servers)
    assert first.views == {"team": ViewSpec(("b",)), "ops": ViewSpec(tags=("ops",))}
    views.write_text('{"views": {"team": {"servers": 1}, "new": {"servers": ["c"]}}}')
    second = read_views(views, servers, first)
    assert second.views["team"] == ViewSpec(("a",)), "the servers file's view of that name is good"
    assert second.views["new"] == ViewSpec(("c",))
    assert "views.team.servers" in second.faults[0]
    views.write_text("{")
    third = read_views(views, servers, second)
    assert third.views == second.views
    assert "is not JSON" in third.faults[0]
    views.write_text('{"views": {}}')
    servers.write_text('{"mcpServers": {}}')
    assert not read_views(views, servers, third).views


def test_the_servers_file_says_nothing_against_its_views() -> None:
    assert not check_servers('{"mcpServers": {}, "views": {"team": {"servers": ["a"]}}}', PATH, {}).notes
