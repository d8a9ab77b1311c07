"""Which figure counts where other work on the machine adds to it (`tests/measured.py`)."""

import pytest

from tests.measured import TRIES, least

UNDER = 3.0


@pytest.mark.parametrize(
    ("figures", "counts", "taken"),
    [
        ([2.9, 0.0], 2.9, 1),
        ([3.0, 2.5, 0.0], 2.5, 2),
        ([9.0, 8.0, 2.0, 0.0], 2.0, 3),
        ([9.0, 7.0, 8.0, 0.0], 7.0, TRIES),
    ],
)
async def test_a_figure_is_taken_again_only_while_it_is_over_its_limit_and_the_least_counts(
    figures: list[float], counts: float, taken: int
) -> None:
    left = iter(figures)

    async def take() -> float:
        return next(left)

    assert await least(take, UNDER) == counts
    assert len(figures) - len(list(left)) == taken
