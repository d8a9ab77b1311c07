"""Writes `docs/compatibility.md` from the results: client x behaviour, server x behaviour, and what is wrong.

The one rule: the page says nothing that the results and the rows do not.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from tests.outside import results
from tests.outside.checks import ROOT
from tests.outside.rows import Client, Scenario, Server, clients, scenarios, servers

PAGE = ROOT / "docs" / "compatibility.md"
SERVER_CHECKS = {
    "lists": "the same tools, schemas, resources and prompts as without a node, for clients of both eras",
    "call": "a call's answer is the server's",
    "wrong": "a refused call is an error, with the server's text",
    "busy": "a call of 20 s is answered, and the process stays",
    "idle": "an idle server is left alone",
    "back": "after its process died it answers again, and nothing says that its tools are unknown",
}
CLIENT_CHECKS = {
    "connects": "connects at the first try",
    "lists": "lists the tools",
    "call": "calls one",
    "wrong": "shows a result with `isError` as it does without a node",
    "restart": "the same client object goes on after the node was started again",
    "many": "sees all of 250 tools",
    "changed": "goes on after the node's list of tools has changed",
    "long": "waits 70 s for an answer, or as long as its own limit allows",
    "refused": "shows why a wrong token was refused",
}
SCENARIO_CHECKS = {
    "one node": "every step comes to what it comes to without a node",
    "two nodes": "the same at a node that reaches the server over another one",
    "as itself": "the same at `/mcp/s/NAME` of that node",
}
INTRODUCTION = """\
# Compatibility

Made by `make outside` from `tests/outside/results.json`; do not edit. Published servers and clients, pinned in
`tests/outside/locks/`, were run on this machine's loopback, directly and through a node. "yes" is what must be, **no**
is wrong today and explained below, "-" was not asked: the program cannot do it, or needs an account or the internet.
"""


def write() -> None:
    """Write the page."""
    PAGE.write_text(render(results.load()))


def render(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The page's text."""
    parts = [INTRODUCTION]
    parts += _section("Clients of a node", clients(), CLIENT_CHECKS, found)
    parts += _section("Servers behind a node", servers(), SERVER_CHECKS, found)
    parts += _section("Pages, tasks and questions", scenarios(), SCENARIO_CHECKS, found)
    parts += _wrong(found)
    return "\n".join(parts)


def _section(
    title: str,
    rows: Mapping[str, Client | Server | Scenario],
    checks: Mapping[str, str],
    found: Mapping[str, Mapping[str, Any]],
) -> Iterable[str]:
    yield f"## {title}\n"
    yield from (f"- {name}: {meaning}." for name, meaning in checks.items())
    yield ""
    kind = ("written in", "SDK", "transport") if rows is not None and title.startswith("Servers") else ("written in",)
    header = ("", "version", *kind, *checks, "date")
    yield f"| {' | '.join(header)} |"
    yield "|" + " --- |" * len(header)
    for name, row in rows.items():
        own = found.get(name, {})
        kinds = (row.language, row.sdk, row.transport) if isinstance(row, Server) else (row.language,)
        cells = [_cell(row, own, check) for check in checks]
        yield f"| {' | '.join((name, row.package.rpartition('==')[2], *kinds, *cells, own.get('date', 'never run')))} |"
    notes = [f"- {name}: {row.note}" for name, row in rows.items() if row.note]
    if notes:
        yield ""
        yield from notes
    yield ""


def _cell(row: Client | Server | Scenario, own: Mapping[str, Any], check: str) -> str:
    if "failed" in own:
        return "failed"
    cannot = check == "refused" and isinstance(row, Client) and not row.refusal
    if cannot or check not in own.get("checks", {}):
        return "-"
    return "yes" if own["checks"][check]["right"] else "**no**"


def _wrong(found: Mapping[str, Mapping[str, Any]]) -> Iterable[str]:
    yield "## Wrong today\n"
    lines = []
    for name in (*clients(), *servers(), *scenarios()):
        own = found.get(name, {})
        if "failed" in own:
            lines.append(f"- **{name}** {own['failed']}")
        for check, one in own.get("checks", {}).items():
            if not one["right"]:
                directly = f"; directly: {_quoted(one['direct'])}" if one["direct"] else ""
                lines.append(f"- **{name}, {check}**: must be {one['must']}; is {_quoted(one['node'])}{directly}.")
    yield from lines or ["Nothing."]
    yield ""


def _quoted(text: str) -> str:
    return f"`{text.replace('`', chr(39))}`"
