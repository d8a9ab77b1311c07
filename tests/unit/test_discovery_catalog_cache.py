"""A catalog survives its way through bytes; anything else is no catalog."""

from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.catalog_cache import dump_catalog, load_catalog
from discovery.model import Catalog, Health, Instance, InstanceKey

texts = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=6)
instances = st.builds(
    Instance,
    key=st.builds(InstanceKey, texts, texts, texts),
    address=texts,
    port=st.integers(0, 65_535),
    health=st.sampled_from(Health),
    meta=st.dictionaries(texts, texts, max_size=3).map(MappingProxyType),
    tags=st.lists(texts, max_size=3).map(tuple),
)


@given(st.lists(instances, max_size=5, unique_by=lambda one: one.key))
def test_a_catalog_comes_back_as_it_was(found: list[Instance]) -> None:
    catalog = Catalog(tuple(sorted(found, key=lambda one: one.key)))
    assert load_catalog(dump_catalog(catalog)) == catalog


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json",
        b"[]",
        b"null",
        b'{"schema": 2, "instances": []}',
        b'{"schema": 1}',
        b'{"schema": 1, "instances": [7]}',
        b'{"schema": 1, "instances": [{"key": ["a"]}]}',
        b"[" * 10_000,
    ],
)
def test_what_is_no_catalog_is_none(content: bytes) -> None:
    assert load_catalog(content) is None
