"""A quick selection of what others wrote, as part of `make test`: rows that are `selected`, each through one node.

`make outside` runs all rows, directly too. The one rule: where a registry cannot be reached, it says so aloud.
"""

from pathlib import Path

import pytest

from tests.outside.checks import Check
from tests.outside.client_rows import check_client, command_of
from tests.outside.installing import NotInstalled
from tests.outside.rows import clients, servers
from tests.outside.server_rows import check_server, prepare

# Long enough for a first run, which installs; a warm one takes a few seconds a row.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(480)]
SERVERS = [name for name, row in servers().items() if row.selected]
CLIENTS = [name for name, row in clients().items() if row.selected]


@pytest.mark.parametrize("name", SERVERS)
async def test_published_server_is_the_same_through_a_node(name: str, tmp_path: Path) -> None:
    try:
        prepared = prepare(servers()[name], tmp_path / "it", "")
    except NotInstalled as exc:
        pytest.skip(f"NOT INSTALLED, {name}: {exc}")
    right(await check_server(prepared, full=False))


@pytest.mark.usefixtures("warm_servers")
@pytest.mark.parametrize("name", CLIENTS)
async def test_published_client_does_before_a_node_what_its_row_says(name: str, tmp_path: Path) -> None:
    row = clients()[name]
    try:
        command_of(row)
    except NotInstalled as exc:
        pytest.skip(f"NOT INSTALLED, {name}: {exc}")
    found = await check_client(row, tmp_path, full=False, direct=False)
    right(found)


def right(found: dict[str, Check]) -> None:
    """Fail with everything that is not as it must be."""
    wrong = [
        f"{name}: must {one.must}, is {one.node}; directly {one.direct}" for name, one in found.items() if not one.right
    ]
    assert found
    assert not wrong, "\n".join(["", *wrong])
