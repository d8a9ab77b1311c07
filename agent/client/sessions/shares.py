"""PURE: whose sessions and waiting calls give way where places are few: tokens' first, then those of a token's callers.

Used by `agent.client.sessions.pool` and `.calls`. The one rule: none loses a place to another that holds as many, and
no named token holds all of them.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Owner(NamedTuple):
    """Whose a place is: the token's name, and which of its callers (an affinity key; None for one without)."""

    token: str
    caller: Hashable


def quota(places: int) -> int:
    """How many of all places one named token may hold: three quarters of them."""
    return max(1, places * 3 // 4)


def over_share(held: Mapping[T, int], places: int) -> frozenset[T]:
    """The callers with more than a fair share of `places`, one more caller counted; not empty while all are held."""
    return frozenset(caller for caller, count in held.items() if count * (len(held) + 1) > places)


def greedy(owners: Iterable[Owner], places: int) -> frozenset[Owner]:
    """The owners with more than their share of all places, by tokens, or by callers where there is one token."""
    held = Counter(owners)
    by_token = Counter[str]()
    for owner, count in held.items():
        by_token[owner.token] += count
    if len(by_token) == 1:
        return over_share(held, places)
    tokens = over_share(by_token, places)
    return frozenset(owner for owner in held if owner.token in tokens)


def yielding(token: str, held: Mapping[str, int]) -> frozenset[str]:
    """The tokens whose unused places another one may have: its own, and of those that hold more than it does."""
    return frozenset(one for one, count in held.items() if one == token or count > held.get(token, 0))
