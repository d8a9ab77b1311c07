"""Who has more than an equal share of places that several clients want. Pure.

Asked when a place is wanted and none is free, by those who lend sessions with a server and by those who keep calls that
wait for their clients. The one rule: whoever keeps to its share loses nothing to those who do not.
"""

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


def over_share(held: Mapping[T, int], places: int) -> frozenset[T]:
    """Those who hold more of `places` than each would if one more client came; never empty while all are held."""
    return frozenset(client for client, count in held.items() if count * (len(held) + 1) > places)
