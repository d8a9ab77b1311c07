"""What a usual call costs a node in instructions: those of the project, of the interpreter and of libraries alike.

`tests/e2e/test_call_cost.py` counts functions, everywhere; this needs valgrind. The one rule: what is recorded is in
`bench/instructions.py`, and of few interpreters.
"""

import shutil

import pytest

from bench.instructions import MARGIN, RECORDED, START_TIMEOUT_S, counted_node, interpreter
from tests.measured import measured


# Half a minute on a machine that does nothing else, most of it for the start.
@pytest.mark.timeout(START_TIMEOUT_S + 180)
async def test_a_usual_call_costs_no_more_instructions_than_it_did() -> None:
    if shutil.which("valgrind") is None:
        pytest.skip("NO VALGRIND: instructions of a call were not counted; Debian's package `valgrind` has it")
    recorded = RECORDED.get(interpreter())
    if recorded is None:
        pytest.skip(f"ANOTHER INTERPRETER: instructions of a call are recorded for {', '.join(RECORDED)} alone")
    async with counted_node() as node:
        counts = {era: await node.of_a_call(era) for era in recorded}
    measured(" and ".join(f"{count:.1f} thousand instructions a call, {era}" for era, count in counts.items()))
    for era, count in counts.items():
        assert count <= recorded[era] * MARGIN, f"{era}: {count:.1f} thousand instructions a call"
        assert count >= recorded[era] / MARGIN, f"{era}: {count:.1f} thousand: cheaper, so record it"
