"""Refused dials for the audit: each refusal once, until the other side is well or refused for another reason."""

from contextlib import AsyncExitStack
from typing import Any

import pytest

from agent.app.refused_dials import audited
from agent.errors import DialRefused, IdentityRefused, MeshError, Unreachable
from agent.model import BackendSpec, HttpTarget, NodeIdentity, PeerSource, PeerSpec

OWN = NodeIdentity("id-own", "own")
PEER = PeerSpec("two", HttpTarget("http://two:8000/mcp"), PeerSource.OVERRIDE)


async def noted(*outcomes: MeshError | None) -> list[tuple[str, dict[str, Any]]]:
    """What is noted of dials that end so, one after the other."""
    notes: list[tuple[str, dict[str, Any]]] = []
    waiting = list(outcomes)

    async def dial(_stack: AsyncExitStack, _spec: BackendSpec, _own: NodeIdentity) -> Any:
        if (failure := waiting.pop(0)) is not None:
            raise failure

    watched = audited(dial, lambda act, _who, **fields: notes.append((act, fields)))
    for outcome in outcomes:
        if outcome is None:
            await watched(AsyncExitStack(), PEER, OWN)
            continue
        with pytest.raises(type(outcome)):
            await watched(AsyncExitStack(), PEER, OWN)
    return notes


async def test_a_refusal_that_repeats_is_noted_once_and_another_reason_anew() -> None:
    same = [IdentityRefused("it is another node") for _ in range(5)]
    notes = await noted(*same, DialRefused("it is link-local"), same[0])
    assert [(act, fields["kind"]) for act, fields in notes] == [
        ("dial.refused", "IdentityRefused"),
        ("dial.refused", "DialRefused"),
        ("dial.refused", "IdentityRefused"),
    ]
    assert notes[0][1]["backend"] == "peer:two"


async def test_a_refusal_after_a_good_dial_is_news_and_what_is_no_refusal_is_not_noted() -> None:
    refused = IdentityRefused("it is another node")
    assert len(await noted(refused, None, refused)) == 2
    assert await noted(Unreachable("connection refused"), None) == []
