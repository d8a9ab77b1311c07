"""Which test begins when, and on which worker: long ones first, one worker from the other end, the simulation last."""

from collections import deque

from tests.order import FROM_THE_END, in_order, next_unit, unit_of

TESTS = (
    ("tests/unit/links/test_link.py::test_b", 0.0),
    ("tests/simulation/test_seeds.py::test_mesh[1]", 600.0),
    ("tests/integration/test_mesh.py::test_one", 0.0),
    ("tests/e2e/test_tls.py::test_short", 0.0),
    ("tests/unit/links/test_link.py::test_a", 0.0),
    ("tests/e2e/test_tls.py::test_long", 90.0),
    ("tests/integration/pairings/test_lists.py::test_one", 0.0),
    ("tests/chaos/test_memory.py::test_one", 240.0),
    ("tests/integration/pairings/test_calls.py::test_one", 0.0),
    ("tests/simulation/test_seeds.py::test_mesh[2]", 600.0),
)


def ids(order: list[int]) -> list[str]:
    return [TESTS[place][0].removeprefix("tests/") for place in order]


def test_what_may_take_longest_begins_first_and_a_file_stays_together() -> None:
    assert ids(in_order(TESTS)) == [
        "chaos/test_memory.py::test_one",
        "e2e/test_tls.py::test_short",
        "e2e/test_tls.py::test_long",
        "integration/pairings/test_lists.py::test_one",
        "integration/pairings/test_calls.py::test_one",
        "integration/test_mesh.py::test_one",
        "unit/links/test_link.py::test_b",
        "unit/links/test_link.py::test_a",
        "simulation/test_seeds.py::test_mesh[1]",
        "simulation/test_seeds.py::test_mesh[2]",
    ]


def test_one_worker_begins_at_the_other_end_and_all_share_the_simulation() -> None:
    waiting = deque(dict.fromkeys(unit_of(TESTS[place][0]) for place in in_order(TESTS)))
    taken: dict[str, list[str]] = {"gw1": [], FROM_THE_END: []}
    while waiting:
        for worker, units in taken.items():
            if waiting:
                unit = next_unit(tuple(waiting), worker)
                waiting.remove(unit)
                units.append(unit)
    assert taken == {
        "gw1": [
            "tests/chaos/test_memory.py",
            "tests/e2e/test_tls.py",
            "pairings",
            "tests/simulation/test_seeds.py::test_mesh[2]",
        ],
        FROM_THE_END: [
            "tests/unit/links/test_link.py",
            "tests/integration/test_mesh.py",
            "tests/simulation/test_seeds.py::test_mesh[1]",
        ],
    }
