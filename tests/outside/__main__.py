"""`python -m tests.outside [NAME ...] [--quick] [--jobs N]`: runs rows, keeps the results, writes the page.

Without names all servers, clients and scenarios are run. The results of rows that were not run are kept, each with its
date. The one rule: a row that could not be installed or run is a result too, and fails the command like a wrong one.
"""

import argparse
import asyncio
import signal
import sys
import tempfile
from pathlib import Path
from typing import TypeAlias

from tests.e2e import running
from tests.outside import page, results
from tests.outside.checks import Check, short
from tests.outside.client_rows import check_client, command_of
from tests.outside.installing import NotInstalled
from tests.outside.program_rows import check_program
from tests.outside.rows import Client, Scenario, Server, clients, scenarios, servers
from tests.outside.scenario_rows import check_scenario
from tests.outside.server_rows import check_server, prepare
from tests.outside.site import site

ROW_TIMEOUT_S = 900.0
# Many programs start at once here, and nothing is said about how fast.
NODE_STARTS_WITHIN_S = 180.0
Row: TypeAlias = Server | Client | Scenario


async def run(names: list[str], jobs: int, *, full: bool, direct: bool) -> int:
    """Run the rows and write what was found; the number of wrong checks and failed rows."""
    groups: dict[str, dict[str, Row]] = {
        "servers": {**servers()},
        "clients": {**clients()},
        "scenarios": {**scenarios()},
    }
    known = {name: row for rows in groups.values() for name, row in rows.items()}
    wanted = [row for name in names or groups for row in (groups[name].values() if name in groups else [known[name]])]
    turn, wrong = asyncio.Semaphore(jobs), 0
    # Ended from outside, it ends what it started.
    whole = asyncio.current_task()
    assert whole is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, whole.cancel)
    with tempfile.TemporaryDirectory(prefix="outside-") as temporary:
        folder = Path(temporary)
        async with site() as address:

            async def one(row: Row) -> int:
                async with turn:
                    found = await _checked(row, folder / row.name.replace("/", "_"), address, full=full, direct=direct)
                results.keep(row, found)
                return _report(row, found)

            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(row), name=row.name) for row in wanted]
            wrong = sum(task.result() for task in tasks)
    page.write()
    return wrong


async def _checked(row: Row, folder: Path, address: str, *, full: bool, direct: bool) -> dict[str, Check] | str:
    try:
        async with asyncio.timeout(ROW_TIMEOUT_S):
            if isinstance(row, Server):
                prepared = await asyncio.to_thread(prepare, row, folder, address)
                return await check_server(prepared, full=full)
            if isinstance(row, Scenario):
                return await check_scenario(row, folder)
            if row.program:
                return await check_program(row, folder)
            await asyncio.to_thread(command_of, row)
            return await check_client(row, folder, full=full, direct=direct)
    except NotInstalled as exc:
        return f"not installed: {short(exc)}"
    except Exception as exc:  # noqa: BLE001 - one row's accident is its result
        return f"not run: {short(f'{type(exc).__name__}: {exc}')}"


def _report(row: Row, found: dict[str, Check] | str) -> int:
    if isinstance(found, str):
        print(f"FAILED  {row.name}: {found}", flush=True)
        return 1
    bad = {name: check for name, check in found.items() if not check.right}
    print(f"{'WRONG ' if bad else 'right '}  {row.name}: {' '.join(found)}", flush=True)
    for name, check in bad.items():
        print(
            f"        {name}: must {check.must}\n          direct {check.direct}\n          node   {check.node}",
            flush=True,
        )
    return len(bad)


def main() -> int:
    """Exit status 1 when anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.outside", description=__doc__)
    parser.add_argument("names", nargs="*", help="rows, or `servers`, `clients` or `scenarios`; all without one")
    parser.add_argument("--quick", action="store_true", help="without the checks that wait")
    parser.add_argument("--node-only", action="store_true", help="clients before a node only, not directly too")
    parser.add_argument("--jobs", type=int, default=4, help="rows at once; most of them wait")
    options = parser.parse_args()
    running.START_TIMEOUT_S = NODE_STARTS_WITHIN_S
    wrong = asyncio.run(run(options.names, options.jobs, full=not options.quick, direct=not options.node_only))
    print(f"{wrong} wrong; see {page.PAGE}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
