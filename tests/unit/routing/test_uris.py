"""A URI that a backend wrote, shown to a client and read by it, is the URI that the backend wrote."""

from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from agent.routing.names import public_uri
from agent.routing.uris import UriCodec, is_fetched_by_clients

NAMESPACES = st.from_regex(r"[A-Za-z0-9_-]{1,12}", fullmatch=True)
URIS = st.text(alphabet="ab:/?#{}.%é \n") | st.text() | st.builds("{}://{}".format, st.text(), st.text())


@given(NAMESPACES, URIS)
@example("ns", "ns/x")
@example("ns", "notes://ns/x")
@example("ns", "")
def test_a_servers_uri_is_read_by_what_was_shown(ours: str, uri: str) -> None:
    assume(not is_fetched_by_clients(uri))
    codec = UriCodec(ours)
    assert codec.remote(codec.public(uri)) == uri


@given(NAMESPACES, NAMESPACES, URIS)
def test_another_nodes_uri_is_read_by_what_was_shown(ours: str, theirs: str, uri: str) -> None:
    """Also where the server has another first part there than here, as behind a name that another backend holds."""
    assume(not is_fetched_by_clients(uri))
    codec, written = UriCodec(ours, theirs), public_uri(theirs, uri)
    assert codec.public(written) == public_uri(ours, uri)
    assert codec.remote(codec.public(written)) == written


@given(NAMESPACES, NAMESPACES, URIS, URIS)
def test_two_backends_never_show_one_uri(one: str, other: str, uri: str, another: str) -> None:
    assume(one != other and not is_fetched_by_clients(uri) and not is_fetched_by_clients(another))
    assert UriCodec(one).public(uri) != UriCodec(other).public(another)


@pytest.mark.parametrize("uri", ["https://example.com/a", "HTTP://example.com", "data:text/plain,x"])
def test_what_clients_fetch_by_themselves_is_left_alone(uri: str) -> None:
    assert UriCodec("kit").public(uri) == uri


def test_another_nodes_own_things_keep_their_names() -> None:
    assert UriCodec("kit", "back__kit").public("config://app") == "config://app"


LINK = {"type": "resource_link", "name": "n", "uri": "notes://home", "_meta": {"kept": 1}}
EMBEDDED = {"type": "resource", "resource": {"uri": "notes://home", "text": "notes://home"}, "annotations": {}}


def test_links_and_embedded_resources_are_renamed_and_nothing_else() -> None:
    text = {"type": "text", "text": "notes://home"}
    result: dict[str, Any] = {"content": [text, LINK, EMBEDDED], "structuredContent": {"content": [LINK]}}
    shown = UriCodec("kit").result("tools/call", result)
    assert shown["content"][0] is text
    assert shown["content"][1] == {**LINK, "uri": "notes://kit/home"}
    assert shown["content"][2] == {**EMBEDDED, "resource": {"uri": "notes://kit/home", "text": "notes://home"}}
    assert shown["structuredContent"] is result["structuredContent"]
    assert LINK["uri"] == "notes://home"


def test_messages_of_a_prompt_are_renamed_in_either_form() -> None:
    messages = [{"role": "user", "content": EMBEDDED}, {"role": "user", "content": [LINK]}]
    shown = UriCodec("kit").result("prompts/get", {"messages": messages})
    assert shown["messages"][0]["content"]["resource"]["uri"] == "notes://kit/home"
    assert shown["messages"][1]["content"][0]["uri"] == "notes://kit/home"


def test_all_contents_of_a_resource_are_renamed_and_the_one_asked_for_is_named_as_asked() -> None:
    contents = [{"uri": "notes://home", "text": ""}, {"uri": "notes://home/1", "text": ""}]
    shown = UriCodec("kit").result("resources/read", {"contents": contents}, ("notes://home", "notes://alias/home"))
    assert [part["uri"] for part in shown["contents"]] == ["notes://alias/home", "notes://kit/home/1"]


@pytest.mark.parametrize("meta", [{"ui": {"resourceUri": "ui://x", "more": 1}}, {"ui/resourceUri": "ui://x", "a": 1}])
def test_the_page_of_an_app_is_renamed_wherever_it_is_named(meta: dict[str, Any]) -> None:
    shown = UriCodec("kit").result("tools/call", {"content": [], "_meta": meta})["_meta"]
    assert repr(shown) == repr(meta).replace("ui://x", "ui://kit/x")
    assert UriCodec("kit").meta(meta) == shown


@pytest.mark.parametrize(
    "result",
    [
        {},
        {"content": [{"type": "text", "text": "notes://home"}], "_meta": {"a": 1}},
        {"content": "notes://home"},
        {
            "content": [
                None,
                1,
                "x",
                {"type": "resource"},
                {"type": "resource", "resource": 1},
                {"type": "resource_link"},
            ]
        },
        {"content": [{"type": "resource_link", "uri": 7}], "_meta": {"ui": {"resourceUri": 1}, "ui/resourceUri": None}},
        {"messages": [1, {"content": None}]},
        {"contents": {}, "_meta": 3},
    ],
)
@pytest.mark.parametrize("method", ["tools/call", "prompts/get", "resources/read", "completion/complete"])
def test_what_has_nothing_to_rename_stays_the_same_object(method: str, result: dict[str, Any]) -> None:
    assert UriCodec("kit").result(method, result) is result


def test_the_messages_of_a_question_to_a_model_are_renamed_and_what_forms_say_is_not() -> None:
    def sampling(*parts: Any) -> dict[str, Any]:
        return {"method": "sampling/createMessage", "params": {"messages": list(parts), "maxTokens": 1}}

    form = {"method": "elicitation/create", "params": {"message": "notes://home", "messages": [{"content": LINK}]}}
    result = {"type": "tool_result", "toolUseId": "1", "content": [LINK, {"type": "text", "text": "notes://home"}]}
    asked = {
        "model": sampling({"role": "user", "content": [result, LINK]}, {"role": "user", "content": EMBEDDED}),
        "form": form,
        "odd": "notes://home",
        "odder": sampling(None, {"content": {"type": "tool_result", "content": [{**result, "content": [LINK]}]}}),
    }
    result_with_questions = {"resultType": "input_required", "inputRequests": asked, "requestState": "s"}
    shown = UriCodec("kit").result("tools/call", result_with_questions)["inputRequests"]
    first, second = shown["model"]["params"]["messages"]
    assert [part["uri"] for part in first["content"][0]["content"][:1]] == ["notes://kit/home"]
    assert first["content"][1]["uri"] == second["content"]["resource"]["uri"] == "notes://kit/home"
    assert shown["form"] is form
    assert shown["odder"] is asked["odder"], "blocks of a tool hold no other blocks"
    nothing = {"resultType": "input_required", "inputRequests": {"form": form}}
    assert UriCodec("kit").result("tools/call", nothing) is nothing
