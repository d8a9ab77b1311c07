"""How many values a text holds, told by its commas and brackets, but for those within its texts."""

import tracemalloc

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.lossless_json import values as module
from agent.lossless_json.values import values_in

TEXTS = st.text(alphabet=',[{"\\\\x', max_size=12)
VALUES = st.recursive(
    st.none() | st.integers(0, 9) | TEXTS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXTS, inner, max_size=5),
    max_leaves=40,
)


def marks(value: object) -> int:
    """Commas and opening brackets outside of texts."""
    if not isinstance(value, (dict, list)):
        return 0
    inner = list(value.values()) if isinstance(value, dict) else value
    return 1 + max(0, len(inner) - 1) + sum(marks(one) for one in inner)


@given(value=VALUES, values_max=st.integers(0, 60), piece=st.integers(1, 40))
def test_values_are_counted_outside_of_texts_wherever_pieces_end(value: object, values_max: int, piece: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PIECE_BYTES", piece)
        assert min(values_in(orjson.dumps(value), values_max), values_max + 1) == min(marks(value), values_max + 1)


@pytest.mark.parametrize("texts", [["a,b[{" * 200_000], ["a"] * 100, ['"' * 100_000], ["\\\\" * 100_000]])
def test_long_texts_are_one_value(texts: list[str]) -> None:
    assert values_in(orjson.dumps(texts), 100) == len(texts)


def test_many_texts_are_too_many() -> None:
    assert values_in(orjson.dumps(["a"] * 1_000), 100) == 101


MANY = {
    "brackets in texts": (orjson.dumps(["["] * 390_000), False),
    "objects": (orjson.dumps([{"a": 1}] * 500_000), True),
    "texts that are no JSON": (b'[",' * 1_300_000, True),
}


@pytest.mark.parametrize("kind", MANY)
def test_counting_takes_no_memory(kind: str) -> None:
    text, more = MANY[kind]
    tracemalloc.start()
    try:
        assert (values_in(text, 400_000) > 400_000) is more
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
