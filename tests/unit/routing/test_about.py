"""A server's word of itself: what every reader can have of it, within bounds, whatever the server wrote."""

import orjson

from agent.lossless_json.exact import read_json
from agent.model import Json
from agent.routing.about import ICONS_BYTES_MAX, NESTING_MAX, SUBSCRIBE, TEXT_LEN_MAX, about_of, read_about


def nested(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


def said(server_info: str = "{}", capabilities: str = "{}", instructions: str | None = None) -> Json:
    return about_of(read_json(server_info.encode()), instructions, read_json(capabilities.encode()))


def test_what_no_json_writer_can_write_is_mended_or_left_out_alone() -> None:
    extensions = rf'{{"a/half": {{"x": "\ud800!"}}, "a/long": {{"n": {2**70}}}, "a/deep": {nested(NESTING_MAX + 1)}}}'
    extensions = extensions[:-1] + f', "a/huge": {{"n": 1e400}}, "a/fits": {nested(NESTING_MAX)}}}'
    icons = r'[{"src": "data:\ud800", "mimeType": "image/png"}, {"src": 5}, 7]'
    about = said(rf'{{"name": "n\ud800", "title": "\udfff", "icons": {icons}}}', f'{{"extensions": {extensions}}}')
    assert about["name"] == "n\ufffd"
    assert about["title"] == "\ufffd"
    assert about["icons"] == [{"src": "data:\ufffd", "mimeType": "image/png"}]
    assert about["extensions"].keys() == {"a/half", "a/long", "a/fits"}
    assert about["extensions"]["a/half"] == {"x": "\ufffd!"}
    assert about["extensions"]["a/long"] == {"n": float(2**70)}
    assert orjson.loads(orjson.dumps(about)) == about == read_about(about), "and it is read so again from another node"


def test_what_is_too_large_is_cut_or_left_out() -> None:
    icon = {"src": "data:" + "a" * ICONS_BYTES_MAX}
    about = read_about({"title": "t" * (TEXT_LEN_MAX + 1), "icons": [icon], "websiteUrl": "javascript:x", "version": 7})
    assert about == {"title": "t" * TEXT_LEN_MAX}


def test_updates_of_resources_are_a_feature_where_the_server_sends_them() -> None:
    assert said(capabilities='{"tools": {}, "resources": {"subscribe": true}}')["features"] == [
        "tools",
        "resources",
        SUBSCRIBE,
    ]
    for resources in ("{}", '{"subscribe": false}', "null", "7"):
        assert said(capabilities=f'{{"resources": {resources}}}')["features"] == ["resources"]
    assert read_about({"features": ["odd", "prompts"]})["features"] == ["prompts"]
