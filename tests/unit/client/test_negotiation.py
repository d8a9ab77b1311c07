"""How a client judges the other side's first answers, and what it writes into later requests: tables, no network."""

from typing import Any

import pytest
from mcp_types.version import LATEST_MODERN_VERSION

from agent.client import jsonrpc as rpc
from agent.client.negotiation import (
    Handshake,
    ModernStamp,
    ProbeAgain,
    judge_discovery,
    judge_initialize,
    judge_refusal,
    modern_version_named,
    without_envelope,
)
from agent.client.server_info import ServerInfo
from agent.errors import ProtocolBroken, RpcError
from agent.lossless_json.exact import read_json
from agent.model import MESH_EXTENSION, Era

NOW = LATEST_MODERN_VERSION
CARD = {"node_id": "1", "name": "n"}
PREFIX = "io.modelcontextprotocol/"


def unsupported(*versions: Any) -> RpcError:
    return RpcError(-32022, "Unsupported protocol version", {"supported": list(versions)})


def test_a_discovery_with_our_version_is_a_modern_hello() -> None:
    result = {
        "supportedVersions": ["2020-01-01", NOW],
        "capabilities": {"extensions": {MESH_EXTENSION: CARD}, "experimental": {MESH_EXTENSION: {"node_id": "no"}}},
        "instructions": "i",
        "_meta": {PREFIX + "serverInfo": {"name": "s"}},
    }
    assert judge_discovery(result, NOW) == ServerInfo(Era.MODERN, NOW, result["capabilities"], {"name": "s"}, "i", CARD)


def test_instructions_that_are_a_number_beyond_every_reader_are_none() -> None:
    said = read_json(b'{"capabilities": {}, "instructions": 1' + b"0" * 400 + b"}")
    found = judge_discovery({"supportedVersions": [NOW], **said}, NOW)
    assert isinstance(found, ServerInfo)
    assert found.instructions is None


@pytest.mark.parametrize("supported", [None, [], ["2025-11-25"], "2026-07-28", {"2026-07-28": 1}])
def test_a_discovery_without_our_version_leads_to_the_handshake(supported: Any) -> None:
    assert isinstance(judge_discovery({"supportedVersions": supported, "capabilities": {}}, NOW), Handshake)


@pytest.mark.parametrize(
    ("error", "probed_again", "verdict"),
    [
        (RpcError(-32601, "x"), False, Handshake),
        (RpcError(-32000, "x"), False, Handshake),
        (RpcError(-32022, "x"), False, Handshake),
        (unsupported(NOW), False, ProbeAgain),
        (unsupported("2025-11-25", NOW), False, ProbeAgain),
        (unsupported("2025-11-25", NOW), True, Handshake),
        (unsupported("2025-06-18"), False, Handshake),
    ],
)
def test_a_refused_discovery_leads_on(error: RpcError, probed_again: bool, verdict: type) -> None:
    assert isinstance(judge_refusal(error, probed_again=probed_again), verdict)


@pytest.mark.parametrize("versions", [("2031-01-01",), (NOW,)])
def test_no_version_in_common_is_the_end_of_it(versions: tuple[str, ...]) -> None:
    with pytest.raises(ProtocolBroken, match=versions[0]):
        judge_refusal(unsupported(*versions), probed_again=True)


def test_only_a_version_error_that_names_a_modern_version_is_evidence_of_a_modern_server() -> None:
    assert modern_version_named(unsupported("2025-11-25", NOW)) == NOW
    assert modern_version_named(unsupported("2025-11-25", 7)) is None
    assert modern_version_named(RpcError(-32602, "x", {"supported": [NOW]})) is None


def test_a_legacy_hello_takes_our_card_from_experimental() -> None:
    capabilities = {"experimental": {MESH_EXTENSION: CARD}}
    server_info = judge_initialize(
        {"protocolVersion": "2025-06-18", "capabilities": capabilities, "serverInfo": {"name": "s"}}
    )
    assert (server_info.era, server_info.mesh, server_info.server_info) == (Era.LEGACY, CARD, {"name": "s"})


@pytest.mark.parametrize("version", ["2026-07-28", "1999-01-01", None, 7])
def test_an_initialize_result_of_an_unknown_version_is_refused(version: Any) -> None:
    with pytest.raises(ProtocolBroken):
        judge_initialize({"protocolVersion": version})


@pytest.mark.parametrize("junk", [None, 7, [], "x"])
def test_junk_in_a_hello_is_read_as_absent(junk: Any) -> None:
    result = {"protocolVersion": "2025-11-25", "capabilities": junk, "serverInfo": junk, "instructions": 7}
    assert judge_initialize(result) == ServerInfo(Era.LEGACY, "2025-11-25", {}, {}, None, None)


def test_a_stamp_keeps_the_callers_meta_but_not_its_version() -> None:
    meta = {PREFIX + "protocolVersion": "x", PREFIX + "clientCapabilities": {"roots": {}}, "traceparent": "t"}
    params = {"name": "a", "_meta": meta}
    stamped = ModernStamp(NOW, "me").params(params)
    assert stamped["_meta"][PREFIX + "protocolVersion"] == NOW
    assert stamped["_meta"][PREFIX + "clientCapabilities"] == {"roots": {}}
    assert stamped["_meta"][PREFIX + "clientInfo"]["name"] == "me"
    assert stamped["_meta"]["traceparent"] == "t"
    assert params == {"name": "a", "_meta": meta}


@pytest.mark.parametrize(
    ("method", "params", "name"),
    [
        ("tools/call", {"name": "a"}, "a"),
        ("prompts/get", {"name": "a"}, "a"),
        ("resources/read", {"uri": "x://\u00e9"}, "=?base64?eDovL8Op?="),
        ("tools/list", {"name": "a"}, None),
        ("tools/call", {"name": 7}, None),
    ],
)
def test_the_name_header_repeats_what_the_body_names(method: str, params: dict[str, Any], name: str | None) -> None:
    headers = ModernStamp(NOW, "me").headers(method, params)
    assert headers.get("Mcp-Name") == name
    assert (headers["Mcp-Method"], headers["MCP-Protocol-Version"]) == (method, NOW)


def test_a_legacy_server_sees_no_envelope_and_no_empty_meta() -> None:
    envelope = {PREFIX + "protocolVersion": NOW, PREFIX + "clientInfo": {}, PREFIX + "clientCapabilities": {}}
    assert without_envelope({"a": 1, "_meta": envelope}) == {"a": 1}
    assert without_envelope({"a": 1, "_meta": {**envelope, "b": 2}}) == {"a": 1, "_meta": {"b": 2}}
    assert without_envelope(None) is None


@pytest.mark.parametrize("token", ["t", 0, None])
def test_a_swapped_token_is_put_back_even_when_it_is_falsy(token: Any) -> None:
    params, kept = rpc.swap_progress_token({"_meta": {"progressToken": token, "x": 1}}, 99)
    assert params == {"_meta": {"progressToken": 99, "x": 1}}
    assert rpc.restore_progress_token({"progressToken": 99, "progress": 1}, kept) == {
        "progressToken": token,
        "progress": 1,
    }


def test_params_without_a_token_stay_the_same_object() -> None:
    params = {"_meta": {"x": 1}}
    assert rpc.swap_progress_token(params, 99) == (params, rpc.NO_TOKEN)


def test_parameters_that_json_cannot_carry_fail_before_anything_is_sent() -> None:
    with pytest.raises(RpcError) as caught:
        rpc.encode_request(1, "m", {"a": object()})
    assert caught.value.code == -32602


@pytest.mark.parametrize("error", [{}, {"code": "x", "message": 7}])
def test_a_malformed_error_is_still_an_error(error: dict[str, Any]) -> None:
    with pytest.raises(RpcError) as caught:
        rpc.result_of({"id": 1, "error": error})
    assert caught.value.code == -32603


@pytest.mark.parametrize("message", [{"id": 1}, {"id": 1, "result": None}, {"id": 1, "result": [1]}, {"error": "x"}])
def test_a_response_without_result_or_error_is_broken(message: dict[str, Any]) -> None:
    with pytest.raises(ProtocolBroken):
        rpc.result_of(message)
