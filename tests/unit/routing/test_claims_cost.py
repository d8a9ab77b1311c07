"""How long the event loop reads one offer with tools that are meant to do harm; longer offers are read in threads."""

import time
from typing import Any

import pytest

from agent.model import NodeIdentity, Offer, ServerScope
from agent.routing.claims import read_contribution
from agent.routing.table import Contribution, ContributionKind

OWN = NodeIdentity("0a" * 16, "home")
# docs/reliability.md: a tool with a schema that is too deep. It is a tenth of that on a quiet machine.
HELD_UP_S = 0.050
# The best of them: other work makes each one slower and none quicker.
TRIES = 5


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"allOf": [schema, schema]}  # The same object twice: as text it has 2 to the power of levels parts.
    return schema


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"allOf": [schema]}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        deep(100),
        nested(12),
        {"type": "string", "pattern": "^(a+)+$", "default": "a" * 40 + "!"},
        {"$ref": "http://10.0.0.1:1/schema.json"},
        {"enum": [f"{number}" for number in range(50_000)]},
    ],
    ids=["deep", "wide and deep", "a pattern without an end", "a reference to the network", "50,000 choices"],
)
def test_a_schema_that_is_meant_to_do_harm_is_read_in_a_moment(schema: dict[str, Any]) -> None:
    whole = {"type": "object", "properties": {"a": schema}}
    tool = {"name": "t", "inputSchema": whole, "outputSchema": whole}
    part = Contribution("server:kit", ContributionKind.SERVER, "kit", OWN, ServerScope.NODE, Offer(tools=(tool,)))
    took_s = []
    for _ in range(TRIES):
        began_s = time.thread_time()
        read_contribution(part, OWN)
        took_s.append(time.thread_time() - began_s)
    assert min(took_s) < HELD_UP_S, took_s
