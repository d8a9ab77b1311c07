"""The watch of a node that starts again with the catalog of its last run, in loop time."""

import logging
from typing import Any

import pytest

from discovery.consul.client import Answer
from discovery.consul.rows import RowReader
from tests.unit.discovery.consul.test_watch_and_registration import (
    OURS,
    ScriptedClient,
    registrar_of,
    rows,
    watch_of,
    watched,
)

pytestmark = pytest.mark.looptime


@pytest.mark.parametrize(("answered", "held"), [(("a", "b"), []), (("a",), [1]), ((), [2])])
async def test_our_entry_of_before_which_we_took_back_is_no_removal_to_hold_and_those_of_others_are(
    answered: tuple[str, ...], held: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)

    def script(number: int, _query: dict[str, Any]) -> Answer | None:
        return Answer(5, rows(*answered)) if number == 1 else None

    client = ScriptedClient(script)
    known = RowReader().read(rows("a", "b", OURS.service_id))[0]
    watch = watch_of(client, OURS.service_name, own=registrar_of(client, OURS), known=known)
    shown = await watched(watch, 1.0)
    assert {one.key.service_id for one in shown[-1].instances} == {"a", "b"}
    said = [record for record in caplog.records if record.message.startswith("holding removals")]
    assert [record.__dict__["instances"] for record in said] == held
    assert watch.status.holding_removals == bool(held)
