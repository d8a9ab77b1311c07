"""What a node imports before it is ready: each of these costs every start a part of a second, and memory for good."""

import subprocess
import sys

import pytest

COSTLY = ("fastmcp", "mcp", "mcp_types", "pydantic", "pydantic_core", "rich", "cryptography", "consul", "requests")


@pytest.mark.parametrize("module", ["agent.app.node", "agent.cli.run", "agent.cli.status"])
def test_a_start_imports_neither_fastmcp_nor_the_sdk_nor_pydantic(module: str) -> None:
    program = f"import sys, {module}; print([name for name in {COSTLY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "[]"
