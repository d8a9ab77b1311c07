"""Commands of the documents, run as they stand there: the blocks behind a line `<!-- tested -->`, page by page.

The blocks of a page are one script, in a folder and a home of its own. The one rule: nothing is changed in them but the
ports, which other tests use.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.processes import ROOT
from tests.ports import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(150)]

TIMEOUT_S = 90.0
TESTED = re.compile(r"^<!-- tested -->\n```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [page for page in sorted(ROOT.glob("docs/**/*.md")) if TESTED.search(page.read_text())]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_page_do_what_it_says(page: Path, tmp_path: Path) -> None:
    script = "set -euo pipefail\n" + "\n".join(TESTED.findall(page.read_text()))
    ports = {"8000": str(free_port()), "8001": str(free_port())}
    for port, free in ports.items():
        script = script.replace(port, free)
    (tmp_path / "script.sh").write_text(script)
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "MESH_EMBEDDED_PORT": str(free_port()),
        "MESH_DISCOVERY": "embedded",
        "MESH_URL": f"http://127.0.0.1:{ports['8000']}",  # What the command line looks for by itself is 8000.
    }
    with (tmp_path / "output").open("wb") as output:
        process = subprocess.Popen(
            ["bash", "script.sh"],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            pass  # The output says how far it came.
        finally:
            # The script ends what it started; where it fails, nothing of it stays.
            if process.poll() != 0:
                with contextlib.suppress(ProcessLookupError):  # It has ended, and so has all that it started.
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)
    assert process.returncode == 0, (tmp_path / "output").read_text()[-4000:]


def test_some_pages_have_commands_that_are_run() -> None:
    assert {page.stem for page in PAGES} >= {"tutorial", "expose-safely"}
