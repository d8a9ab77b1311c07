"""Which first bytes of a connection are a probe without Host, however they are cut; what the parser gets of them."""

import pytest

from agent.app.probe_host import HEAD_BYTES_MAX, with_host

PROBES = [
    b"GET /healthz HTTP/1.1\r\n\r\n",
    b"HEAD /readyz?full HTTP/1.1\r\nUser-Agent: check\r\n\r\n",
    b"GET http://node.example:8000/readyz HTTP/1.1\r\nAccept: */*\r\n\r\n",
    b"GET /healthz HTTP/1.1\n\n",
]
OTHERS = [
    b"GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nAccept: */*\r\nhost : node\r\n\r\n",
    b"GET /healthz HTTP/1.0\r\n\r\n",
    b"GET /healthz/x HTTP/1.1\r\n\r\n",
    b"GET /mcp?/healthz HTTP/1.1\r\n\r\n",
    b"POST /healthz HTTP/1.1\r\n\r\n",
    b"\x16\x03\x01",
    b"GET /healthz HTTP/1.1\r\nX: " + HEAD_BYTES_MAX * b"x",
]


@pytest.mark.parametrize("probe", PROBES)
def test_a_probe_without_host_is_given_one_and_its_connection_ends_after_it(probe: bytes) -> None:
    line, rest = probe[: probe.index(b"\n") + 1], probe[probe.index(b"\n") + 1 :]
    assert with_host(probe) == line + b"Host: localhost\r\nConnection: close\r\n" + rest


@pytest.mark.parametrize("probe", PROBES)
def test_of_a_probe_that_comes_in_pieces_the_whole_head_is_waited_for(probe: bytes) -> None:
    assert {with_host(probe[:length]) for length in range(1, len(probe))} == {None}


@pytest.mark.parametrize("other", OTHERS)
def test_every_other_beginning_reaches_the_parser_as_it_came(other: bytes) -> None:
    assert with_host(other) == other
