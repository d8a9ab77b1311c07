"""`mesh-agent audit`: where it looks for a node's audit, and what it says of files that are whole, cut or not there."""

import asyncio
import json
from pathlib import Path

import pytest

from agent.audit.files import FILE_NAME
from agent.audit.trail import Trail
from agent.cli.output import Exit
from agent.cli.parser import main


def write(path: Path, *peers: str) -> None:
    """An audit with a record for each of these."""

    async def written() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        trail = Trail(path)
        async with asyncio.TaskGroup() as tasks:
            writing = tasks.create_task(trail.run(), name="audit")
            for peer in peers:
                await trail.act("peer.add", "ops", peer=peer)
            writing.cancel()

    asyncio.run(written())


@pytest.mark.parametrize("part", ["port-8000", "", "node"])
def test_the_audit_of_a_node_is_found_where_its_state_is(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MESH_STATE_DIR", str(tmp_path))
    write(tmp_path / part / FILE_NAME, "two", "three")
    assert main(["audit", "verify"]) == Exit.OK
    assert "records 1 to 2 are whole" in capsys.readouterr().out
    assert main(["audit", "tail", "-n", "1"]) == Exit.OK
    assert "peer.add ops peer=three" in capsys.readouterr().out


def test_what_is_not_there_or_not_whole_is_said_with_an_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "audit.jsonl"
    assert main(["audit", "verify", str(path)]) == Exit.CONFIG
    assert "there is no audit" in capsys.readouterr().err
    write(path, "two", "three", "four")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[2])
    assert main(["audit", "verify", "--json", str(path)]) == Exit.USAGE
    told = json.loads(capsys.readouterr().out)
    assert (told["ok"], told["last"]) == (False, 1)
    assert "line 2: does not follow record 1" in told["fault"]
    path.write_bytes(lines[0] + b"no record\n")
    assert main(["audit", "tail", str(path)]) == Exit.OK
    assert "BROKEN" in capsys.readouterr().out
