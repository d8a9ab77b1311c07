"""What the conformance tests share: Node with its programs, and the reports of all runs.

Used by pytest alone. The one rule: the suite runs once, against every target, however many tests look at its reports.
"""

import asyncio
from pathlib import Path

import pytest

from tests.conformance.node_tools import NodeTools, node_tools, why_not
from tests.conformance.runs import run_all
from tests.conformance.verdicts import Report


@pytest.fixture(scope="session")
def tools() -> NodeTools:
    """Node and the locked programs, installed when they are not in the cache; skipped aloud when they cannot be had."""
    found = node_tools()
    if found is None:
        pytest.skip(f"NO NODE PROGRAMS ({why_not()}); `python -m tests.conformance.node_tools` installs them")
    return found


@pytest.fixture(scope="session")
def reports(
    tools: NodeTools,
    quick_servers: None,  # noqa: ARG001 - it is asked for, and has no value
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[tuple[str, str], Report]:
    """(target, revision) -> report."""
    return asyncio.run(run_all(tools, tmp_path_factory.mktemp("conformance")))


@pytest.fixture(scope="session")
def requirements(tools: NodeTools) -> Path:
    """The folder of the suite's requirement sets."""
    return tools.modules / "@modelcontextprotocol" / "conformance" / "requirements"
