"""In which order the tests begin: long ones first, the simulation last."""

from tests.order import in_order, unit_of

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
    ("tests/browser/test_page.py::test_one", 0.0),
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
        "browser/test_page.py::test_one",
        "unit/links/test_link.py::test_b",
        "unit/links/test_link.py::test_a",
        "integration/test_mesh.py::test_one",
        "simulation/test_seeds.py::test_mesh[1]",
        "simulation/test_seeds.py::test_mesh[2]",
    ]


def test_what_waits_for_minutes_begins_before_all_else() -> None:
    waits = ("tests/chaos/test_lost_crowds.py::test_one[x]", 120.0)
    assert in_order([*TESTS, waits])[0] == len(TESTS)


def test_files_that_share_servers_go_to_one_worker_and_tests_that_share_nothing_to_any() -> None:
    shared, single = TESTS[6][0], TESTS[1][0]
    assert unit_of(shared) == unit_of(TESTS[8][0]) == "pairings"
    assert unit_of(single) == single
    assert unit_of(TESTS[3][0]) == unit_of(TESTS[5][0]) == "tests/e2e/test_tls.py"
