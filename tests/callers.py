"""Serving in the name of a client with a token, as the edge does it, for tests below the edge."""

from collections.abc import Iterator
from contextlib import contextmanager

from agent.authority.caller import Caller, caller, serve_for
from agent.authority.grant import Grant


@contextmanager
def served(grant: Grant) -> Iterator[None]:
    """What runs in this block is a request of this grant's holder."""
    before = caller()
    serve_for(Caller(grant))
    try:
        yield
    finally:
        serve_for(before)
