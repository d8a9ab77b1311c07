"""The newest lines of the log: their bounds, and readers who want more, or are slow."""

import json
import threading

from agent.log_ring import AT_ONCE_MAX, BYTES_MAX, LINES_MAX, READERS_EACH_MAX, READERS_MAX, LogRing

DEBUG, INFO, ERROR = 10, 20, 40


def ring_with(*lines: tuple[int, str]) -> tuple[LogRing, list[int | None]]:
    wanted: list[int | None] = []
    ring = LogRing(wanted.append)
    for level, event in lines:
        ring.add(level, json.dumps({"event": event}))
    return ring, wanted


def events(told: list[dict[str, object]]) -> list[object]:
    return [line["event"] for line in told]


async def test_reader_gets_what_is_kept_and_what_comes_from_its_level_on() -> None:
    ring, _ = ring_with((DEBUG, "a"), (INFO, "b"), (ERROR, "c"))
    reader = ring.read("info")
    assert reader is not None
    assert events(reader.take()) == ["b", "c"]
    thread = threading.Thread(target=ring.add, args=(INFO, '{"event": "d"}'))
    thread.start()
    assert await reader.wait(5.0)
    thread.join()
    assert events(reader.take()) == ["d"]
    assert not await reader.wait(0.001)


async def test_level_is_lowered_for_as_long_as_a_reader_wants_it() -> None:
    ring, wanted = ring_with()
    first, second = ring.read("error"), ring.read("debug")
    assert first is not None
    assert second is not None
    second.leave()
    first.leave()
    assert wanted == [ERROR, DEBUG, ERROR, None]


async def test_slow_reader_loses_the_oldest_lines_and_gets_their_number() -> None:
    ring, _ = ring_with((INFO, "first"))
    reader = ring.read("debug")
    assert reader is not None
    assert events(reader.take()) == ["first"]
    for number in range(LINES_MAX + 7):
        ring.add(INFO, json.dumps({"event": number}))
    lost, *lines = reader.take()
    assert lost == {"event": "lines are lost", "count": 7}
    assert events(lines) == list(range(7, 7 + AT_ONCE_MAX))
    assert await reader.wait(5.0), "there are more"
    assert events(reader.take())[0] == 7 + AT_ONCE_MAX


async def test_what_is_kept_has_a_limit_of_bytes_and_readers_one_of_number() -> None:
    ring, _ = ring_with()
    for _ in range(5):
        ring.add(INFO, json.dumps({"event": "x" * (BYTES_MAX // 3)}))
    readers = [ring.read("info") for _ in range(READERS_MAX)]
    assert None not in readers
    assert ring.read("info") is None
    assert readers[0] is not None
    assert len(readers[0].take()) == 2


async def test_readers_of_one_token_leave_room_for_those_of_others() -> None:
    ring, _ = ring_with()
    assert None not in [ring.read("info", "binding") for _ in range(READERS_EACH_MAX)]
    assert ring.read("info", "binding") is None
    assert ring.read("info", "another") is not None
    assert ring.read("info") is not None


async def test_stream_ends_with_its_token_and_with_the_node() -> None:
    ring, _ = ring_with()
    mine, anyones = ring.read("info", "binding"), ring.read("info")
    assert mine is not None
    assert anyones is not None
    ring.end_of_revoked({"other"})
    assert (mine.ended, anyones.ended) == (True, False)
    assert await mine.wait(5.0)
    ring.close()
    assert anyones.ended
    assert ring.read("info") is None


async def test_lines_of_another_process_come_together_and_keep_to_the_limit() -> None:
    ring, _ = ring_with((INFO, "first"))
    reader = ring.read("info")
    assert reader is not None
    ring.add_all([(DEBUG, '{"event": "a"}'), (INFO, '{"event": "b"}')])
    assert await reader.wait(5.0)
    assert events(reader.take()) == ["first", "b"]
    ring.add_all([(INFO, '{"event": "c"}')] * (LINES_MAX + 1))
    assert ring.oldest == 4
