"""What a soak says of its samples: which slope is a leak, and what else must not grow. `make soak` takes real ones."""

import random
import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.chaos.soak import PLAIN_HOUR, Happened, Sample, judged

MB = 2**20
# A node that fills its caches in the first half hour, and whose allocator moves by a megabyte.
WARM_UP_H, WARM_UP_MB, ALLOCATOR_MB = 0.5, 8.0, 1.0


def soaked(hours: float, mb_per_h: float, change: Callable[[Sample], Sample] = lambda one: one) -> list[Sample]:
    rng = random.Random(7)
    found = []
    for number in range(int(450 * hours / 2)):
        at_h = number * 2 / 450
        held_mb = 62 + WARM_UP_MB * min(1.0, at_h / (WARM_UP_H * hours / 2)) + mb_per_h * at_h
        held_mb += rng.uniform(-ALLOCATOR_MB, ALLOCATOR_MB) / 2
        found.append(change(Sample(at_h, int(held_mb * MB), 60 + rng.randrange(10), 90 + rng.randrange(10))))
    return found


@pytest.mark.parametrize(
    ("hours", "mb_per_h", "leaks"),
    [(2.0, 0.0, False), (2.0, 0.8, False), (2.0, 1.3, True), (0.27, 0.0, False), (0.27, 20.0, True)],
)
def test_a_soak_tells_a_slope_from_its_warm_up_and_from_the_moves_of_an_allocator(
    hours: float, mb_per_h: float, *, leaks: bool
) -> None:
    verdict = judged(soaked(hours, mb_per_h))
    assert verdict.slope_mb_per_h == pytest.approx(mb_per_h, abs=0.3 if hours == 2.0 else 4.0)
    assert bool(verdict.complaints()) is leaks, verdict


@pytest.mark.parametrize(
    ("grow", "complaint"),
    [
        (lambda one: replace(one, descriptors=one.descriptors + int(45 * one.at_h)), "descriptors"),
        (lambda one: replace(one, tasks=one.tasks + int(45 * one.at_h)), "tasks"),
        (lambda one: replace(one, zombies=frozenset({17}) if one.at_h > 1.5 else frozenset()), r"waited for: \[17\]"),
    ],
)
def test_a_soak_complains_of_descriptors_tasks_and_zombies_that_stay(
    grow: Callable[[Sample], Sample], complaint: str
) -> None:
    (found,) = judged(soaked(2.0, 0.0, grow)).complaints()
    assert re.search(complaint, found)


def test_a_child_that_has_only_just_ended_is_no_zombie() -> None:
    samples = soaked(2.0, 0.0)
    samples[50] = replace(samples[50], zombies=frozenset({17}))
    assert judged(samples).complaints() == []


def test_hours_are_counted_by_what_has_happened_least_often() -> None:
    assert PLAIN_HOUR.hours == 1.0
    assert Happened(calls=72_000, joins=2_000, leaves=2_000, faults=50, deaths=12).hours == 0.5
