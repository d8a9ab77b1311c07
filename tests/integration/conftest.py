"""What the integration tests share: a process that real servers over stdio are copied from.

Used by pytest alone. The one rule: it starts before a test's own processes are counted, and ends with the run.
"""

from collections.abc import Iterator

import pytest

from tests.integration.servers import warm


@pytest.fixture(scope="session")
def warm_servers() -> Iterator[None]:
    """Let commands of `warm` start at once. A module asks for it with `pytest.mark.usefixtures`."""
    with warm.warm_servers():
        yield
