"""Stickiness: one key, one replica, on every node; only the keys of a replica that left move."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.client.affinity import affinity_key, rendezvous_choice
from agent.model import AFFINITY_META_KEY, Json
from agent.routing.table import Replica

KEYS = st.text(min_size=1, max_size=40)
FLEET = [Replica(f"peer:{n}", "t", f"node-{n}", ours=False) for n in range(6)]
GROUPS = st.lists(st.sampled_from(FLEET), min_size=2, max_size=6, unique=True)


@given(KEYS, GROUPS, st.randoms(use_true_random=False))
def test_a_key_keeps_its_replica_whatever_the_order(key: str, group: list[Replica], rng: object) -> None:
    shuffled = list(group)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis has no public name for its Random
    assert rendezvous_choice(shuffled, key) is rendezvous_choice(group, key)


@given(KEYS, GROUPS, st.data())
def test_only_the_keys_of_a_replica_that_left_move(key: str, group: list[Replica], data: st.DataObject) -> None:
    before = rendezvous_choice(group, key)
    gone = data.draw(st.sampled_from(group))
    after = rendezvous_choice([replica for replica in group if replica is not gone], key)
    assert (after is before) is (gone is not before)
    assert after is rendezvous_choice(group, key, exclude={gone.backend_key})


@given(KEYS)
def test_every_node_finds_the_same_replica_whatever_its_links_are_called(key: str) -> None:
    elsewhere = [replace(replica, backend_key=f"peer:x{9 - n}", hops=n % 2) for n, replica in enumerate(FLEET)]
    here, there = rendezvous_choice(FLEET, key), rendezvous_choice(elsewhere, key)
    assert here is not None
    assert there is not None
    assert here.node_id == there.node_id


def test_keys_spread_evenly() -> None:
    found = Counter(replica.backend_key for n in range(3000) if (replica := rendezvous_choice(FLEET, f"key-{n}")))
    assert all(400 < found[replica.backend_key] < 600 for replica in FLEET)


def test_of_two_ways_to_one_node_the_shorter_is_taken() -> None:
    near, far = FLEET[0], replace(FLEET[0], backend_key="peer:zz-gateway", hops=2)
    assert rendezvous_choice([far, near], "k") is near
    assert rendezvous_choice([far, near], "k", exclude={near.backend_key}) is far


def test_plain_peers_are_distinguished_by_their_links() -> None:
    plain = [Replica(f"peer:p{n}", "t", None, ours=False) for n in range(4)]
    assert len({rendezvous_choice(plain, f"key-{n}") for n in range(100)}) == 4


def test_no_replica_is_found_when_none_is_left() -> None:
    assert rendezvous_choice([], "k") is None
    assert rendezvous_choice(FLEET[:1], "k", exclude={"peer:0"}) is None


@pytest.mark.parametrize("key", ["\ud800", "\0", "a" * 100_000])
def test_any_text_is_a_key(key: str) -> None:
    assert rendezvous_choice(FLEET, key) is rendezvous_choice(FLEET, key)


def test_the_explicit_key_goes_before_the_session() -> None:
    params: Json = {"_meta": {AFFINITY_META_KEY: "mine"}}
    assert affinity_key(params, "session-1") == "mine"
    assert affinity_key(params, None) == "mine"


@pytest.mark.parametrize(
    "params", [{}, {"_meta": {}}, {"_meta": {AFFINITY_META_KEY: 7}}, {"_meta": {AFFINITY_META_KEY: ""}}]
)
def test_without_a_key_the_session_counts_and_its_id_stays_secret(params: Json) -> None:
    assert affinity_key(params, None) is None
    key = affinity_key(params, "session-1")
    assert key is not None
    assert key == affinity_key({}, "session-1")
    assert key != affinity_key({}, "session-2")
    assert "session-1" not in key
