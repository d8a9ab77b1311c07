"""How long an agent that has been slow is waited for."""

from discovery.consul.patience import Patience, kind_of


def test_each_time_out_in_a_row_adds_patience_up_to_a_minute_in_all() -> None:
    patience, more_s = Patience(), []
    for _ in range(7):
        more_s.append(patience.more_s("GET a"))
        patience.note_late("GET a")
    assert more_s == [0.0, 5.0, 10.0, 20.0, 40.0, 55.0, 55.0]
    assert patience.more_s("PUT a") == 0.0


def test_a_slow_answer_keeps_the_patience_that_it_needed_and_a_quick_one_ends_it() -> None:
    patience = Patience()
    patience.note_late("GET a")
    patience.note_answer("GET a", in_usual_time=False)
    assert patience.more_s("GET a") == 5.0
    patience.note_answer("GET a", in_usual_time=True)
    assert patience.more_s("GET a") == 0.0


def test_a_wait_has_the_patience_that_the_same_read_needed_and_not_the_other_way_round() -> None:
    patience = Patience()
    read, wait = (kind_of("GET", "/v1/health/service/mcp-node", waits=waits) for waits in (False, True))
    patience.note_late(read)
    assert (patience.more_s(read), patience.more_s(wait)) == (5.0, 5.0)
    patience.note_answer(wait, in_usual_time=True)
    assert patience.more_s(wait) == 5.0
    patience.note_answer(read, in_usual_time=True)
    patience.note_late(wait)
    assert (patience.more_s(read), patience.more_s(wait)) == (0.0, 5.0)


def test_the_kind_of_a_request_is_its_method_and_part_of_the_api() -> None:
    assert kind_of("GET", "/v1/health/service/mcp-node") == "GET health/service"
    assert kind_of("PUT", "/v1/agent/check/pass/service:a") == "PUT agent/check"
    assert kind_of("GET", "/v1/health/service/mcp-node", waits=True) == "GET health/service, waiting"
