"""What the command line repeats, because importing it would cost more than the command: held against its origin."""

from agent.cli import tools
from agent.config import values
from agent.model import ORIGIN_META_KEY, ServerScope
from agent.routing.origins import listed_origin


def test_limits_and_names_are_those_of_the_node() -> None:
    assert tools.CALL_TIMEOUT_MAX_S == values.CALL_TIMEOUT_MAX_S
    assert tools._FLEET == ServerScope.FLEET
    tool = {"name": "dice__roll", "_meta": {ORIGIN_META_KEY: {"server": "dice", "scope": "service", "node": "a"}}}
    assert tools._origin(tool) == listed_origin(tool) != {}


def test_tool_says_what_it_does_and_what_it_takes_in_words() -> None:
    tool = {
        "annotations": {"readOnlyHint": True, "destructiveHint": False, "idempotentHint": True, "title": 5},
        "inputSchema": {
            "properties": {
                "a": {"type": ["string", "null"], "description": "the\x1b[31m first"},
                "b": {"enum": [1, "x"], "default": 1},
                "c": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
                "d": True,
            },
            "required": ["a", 5],
        },
    }
    assert tools._hints(tool) == "only reads, may be repeated"
    assert tools._described(tool["inputSchema"]) == [
        "  a (string or null, required): the first",
        '  b (one of 1, "x", default 1)',
        "  c (integer or null)",
        "  d (anything)",
    ]
