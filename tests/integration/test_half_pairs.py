"""Half a surrogate pair in a request: passed on where it is content, a clear refusal where a text is needed.

The one rule: no such request costs more than itself, and none is answered as a fault of this node.
"""

import json
from pathlib import Path

import pytest

from agent.model import Era
from tests.integration.test_unchanged import scene

# Not JSON, wrong params, no such method; a header that differs, and a client that takes no tasks.
REFUSALS = {-32700, -32602, -32601, -32020, -32021}
CUT = '"\\ud83d"'
ODD = {
    "a name": ("tools/call", f'"name":{CUT},"arguments":{{}}'),
    "a name of an argument": ("tools/call", f'"name":"kit__do","arguments":{{{CUT}:1}}'),
    "a member of its own": ("tools/call", f'{CUT}:1,"name":"kit__do","arguments":{{}}'),
    "arguments": ("tools/call", f'"name":"kit__do","arguments":{CUT}'),
    "a URI": ("resources/read", f'"uri":{CUT}'),
    "a prompt": ("prompts/get", f'"name":{CUT}'),
    "a cursor": ("tools/list", f'"cursor":{CUT}'),
    "a reference": ("completion/complete", f'"ref":{{"type":"ref/prompt","name":{CUT}}},"argument":{CUT}'),
    "a state": ("tools/call", f'"name":"kit__do","arguments":{{}},"requestState":{CUT}'),
    "an argument of a tool of ours": ("tools/call", f'"name":"get_mcp_peer","arguments":{{"name":{CUT}}}'),
    "a part of a URI": ("resources/read", '"uri":"health://\\ud83d"'),
    "a task": ("tasks/get", f'"taskId":{CUT}'),
    "a level": ("logging/setLevel", f'"level":{CUT}'),
}


@pytest.mark.parametrize("era", [Era.MODERN, Era.LEGACY])
async def test_half_a_pair_where_a_text_is_needed_is_a_clear_refusal(
    era: Era, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    codes = {}
    async with scene(era, Era.MODERN, 1, tmp_path) as found:
        for case, (method, params) in ODD.items():
            name = "get_mcp_peer" if "get_mcp_peer" in params else "kit__do"
            codes[case] = json.loads(await found.mcp.ask(method, params, name))["error"]["code"]
        assert "result" in json.loads(await found.mcp.ask("tools/call", '"name":"kit__do","arguments":{}', "kit__do"))
    assert {case: code for case, code in codes.items() if code not in REFUSALS} == {}
    assert [record.message for record in caplog.records if record.exc_info] == []
