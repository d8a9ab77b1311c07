"""Two machines with Consul, each a network namespace: deploy/two-machines.sh does on both what an operator types.

The one rule: what the script says it did, the machines show: a call from one answered by the other, and nothing left.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.namespace import PREFIX, why_not
from tests.e2e.processes import ROOT, environment_of

pytestmark = [pytest.mark.e2e, pytest.mark.consul, pytest.mark.timeout(150)]

SCRIPT = ROOT / "deploy/two-machines.sh"


def namespaces() -> list[str]:
    """Those that are not of a test beside this one."""
    done = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, timeout=10, check=True)
    return [line for line in done.stdout.splitlines() if not line.startswith(PREFIX)]


def test_a_tool_of_one_machine_is_called_on_the_other_and_nothing_stays(consul_program: Path, tmp_path: Path) -> None:
    if reason := why_not():
        pytest.skip(f"NO NETWORK NAMESPACES: two machines were not tried; {reason}")
    before = namespaces()
    settings = {"CONSUL": str(consul_program), "AGENT": f"{sys.executable} -m agent", "PYTHON": sys.executable}
    done = subprocess.run(
        [str(SCRIPT)],
        cwd=ROOT,
        env=environment_of({**settings, "TMPDIR": str(tmp_path)}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    after_the_call = done.stdout.partition("tools call dice__roll")[2]
    assert '"rolls": [' in after_the_call
    assert "http://10.77.0.1:8000/mcp" in after_the_call
    assert namespaces() == before
    assert list(tmp_path.iterdir()) == []
