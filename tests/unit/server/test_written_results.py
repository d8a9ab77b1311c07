"""Results as JSON for clients of each era: the same values whatever way they were written."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.dispatch.call import Forwarded
from agent.lossless_json.raw import RawObject
from agent.model import Json
from agent.routing.table import Replica, Route, RouteKind
from agent.server.written_results import written

REPLICA = Replica("server:kit", "do", None, ours=True, hops=0)
ROUTE = Route(RouteKind.TOOL, "kit__do", {}, "", (REPLICA,), listed=True, owner="server:kit")
MODERN_MEMBERS = ("resultType", "ttlMs", "cacheScope")
TEXTS = (
    st.sampled_from(["", ',"resultType":"complete"}', '{"resultType":"complete",', '"', "\\", "\u2028", "a"])
    | st.text()
)
VALUES = st.recursive(
    TEXTS | st.integers(-(2**62), 2**62) | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
MEMBERS = st.sampled_from(["content", "isError", "_meta", "x", "resultType", "ttlMs", "structuredContent"]) | TEXTS


def as_client_reads(result: Json, *, modern: bool) -> Json:
    raw = orjson.dumps(result)
    parts = written("tools/call", ROUTE, Forwarded(RawObject(orjson.loads(raw), raw), REPLICA), modern=modern)
    read: Json = orjson.loads(b"".join(parts))
    return read


@given(st.lists(st.tuples(MEMBERS, VALUES), max_size=5), st.sampled_from(["first", "last", "nowhere"]))
def test_a_result_says_the_same_to_clients_of_both_eras(members: list[tuple[str, object]], place: str) -> None:
    result = {name: value for name, value in members if name not in ("resultType", "structuredContent")}
    if place == "first":
        result = {"resultType": "complete", **result}
    elif place == "last":
        result["resultType"] = "complete"
    assert as_client_reads(result, modern=True) == {"resultType": "complete", **result}
    assert as_client_reads(result, modern=False) == {k: v for k, v in result.items() if k not in MODERN_MEMBERS}


@pytest.mark.parametrize(
    "raw",
    [
        b'{"content":[{"type":"text","text":"1"}],"x":1e400000,"resultType":"complete"}',
        b'{"resultType":"complete","n":123456789012345678901234567890}',
    ],
)
def test_what_an_earlier_client_does_not_know_is_cut_out_of_the_bytes(raw: bytes) -> None:
    known = RawObject({"resultType": "complete", "content": []}, raw)
    (short,) = written("tools/call", ROUTE, Forwarded(known, REPLICA), modern=False)
    assert bytes(short) == raw.replace(b',"resultType":"complete"', b"").replace(b'"resultType":"complete",', b"")
