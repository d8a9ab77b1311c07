"""An example MCP server that rolls dice: `python -m agent.examples.dice`.

Started by the demo on two nodes at once, to show one tool with two replicas. The one rule: the same seed rolls the same
dice, on every machine.
"""

import random
from typing import Any

from agent.examples.stdio import Refused, Server, Tool, schema_of, serve

SIDES_MAX = 1000
COUNT_MAX = 100


def roll(sides: int = 6, count: int = 1, seed: int | None = None) -> dict[str, Any]:
    """Roll `count` dice with `sides` sides each."""
    if not 2 <= sides <= SIDES_MAX:  # noqa: PLR2004 - a die with one side is none
        raise Refused(f"sides must be 2 to {SIDES_MAX}")
    if not 1 <= count <= COUNT_MAX:
        raise Refused(f"count must be 1 to {COUNT_MAX}")
    source = random.Random(seed)  # noqa: S311 - dice, not keys
    rolls = [source.randint(1, sides) for _ in range(count)]
    return {"rolls": rolls, "total": sum(rolls)}


SERVER = Server(
    name="dice",
    tools={
        "roll": Tool(
            roll,
            schema_of({}, {"sides": int, "count": int, "seed": int}),
            f"Roll dice: sides 2 to {SIDES_MAX} (default 6), count 1 to {COUNT_MAX} (default 1); a seed makes it"
            " repeatable.",
        )
    },
)

if __name__ == "__main__":
    serve(SERVER)
