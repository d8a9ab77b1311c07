"""Two machines with Consul, each a network namespace: deploy/two-machines.sh does on both what an operator types.

The one rule: what the script says it did, the machines show: a call from one answered by the other, and nothing left.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.namespace import ip, why_not
from tests.e2e.processes import ROOT, environment_of

pytestmark = [pytest.mark.e2e, pytest.mark.consul, pytest.mark.timeout(150)]

SCRIPT = ROOT / "deploy/two-machines.sh"


def namespaces(process_id: int) -> list[str]:
    """Those of the script with this id, which is in their names; other runs have others."""
    return [line for line in ip("netns", "list").splitlines() if line.split()[0].endswith(f"-{process_id}")]


def test_a_tool_of_one_machine_is_called_on_the_other_and_nothing_stays(consul_program: Path, tmp_path: Path) -> None:
    if reason := why_not():
        pytest.skip(f"NO NETWORK NAMESPACES: two machines were not tried; {reason}")
    settings = {"CONSUL": str(consul_program), "AGENT": f"{sys.executable} -m agent", "PYTHON": sys.executable}
    with subprocess.Popen(
        [str(SCRIPT)],
        cwd=ROOT,
        env=environment_of({**settings, "TMPDIR": str(tmp_path)}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as script:
        try:
            said, complaints = script.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            script.terminate()  # It removes what it made.
            raise
    assert script.returncode == 0, said[-3000:] + complaints[-3000:]
    after_the_call = said.partition("tools call dice__roll")[2]
    assert '"rolls": [' in after_the_call
    assert "http://10.77.0.1:8000/mcp" in after_the_call
    assert namespaces(script.pid) == []
    assert list(tmp_path.iterdir()) == []
