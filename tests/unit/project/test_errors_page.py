"""docs/errors.md against the code: each error code of the command line, of REST and of JSON-RPC has its row."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from agent import errors, rpc_codes
from agent.cli.output import CliFailed, Exit
from agent.rest import envelope

ROOT = Path(__file__).parents[3]
# The position of the code among the arguments of what makes a failure.
MAKERS = {"RequestRefused": 1, "OverrideRefused": 1, "failure": 1, "refused": 2}
MADE = re.compile("|".join([*(f"\\b{name}\\(" for name in MAKERS), 'error=["f]']))
CODE = re.compile(r"[a-z][a-z_]+")
NO_ERRORS = {"SESSION_NOT_FOUND", "CONNECTION_CLOSED"}  # Of SDKs; the node gives neither.


def sources() -> Iterator[ast.Call]:
    texts = (path.read_text() for path in (ROOT / "agent").rglob("*.py"))
    for text in texts:
        if MADE.search(text):  # Parsing all of them would take seconds.
            yield from (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call))


def codes_in_calls() -> set[str]:
    found = set()
    for call in sources():
        name = call.func.id if isinstance(call.func, ast.Name) else ""
        at = MAKERS.get(name)
        values: list[ast.expr] = [word.value for word in call.keywords if word.arg == "error"]
        values += [call.args[at]] if at is not None and len(call.args) > at else []
        found |= {
            one.value for one in values if isinstance(one, ast.Constant) and isinstance(one.value, str) and one.value
        }
    return {code for code in found if CODE.fullmatch(code)}


def rows_of_page() -> set[str]:
    return set(re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs/errors.md").read_text(), re.MULTILINE))


def test_each_error_code_has_its_row_and_each_row_a_code() -> None:
    by_exit = {CliFailed(code, "").error for code in Exit if code is not Exit.OK}
    by_rest = {*envelope._CODES.values(), *(code for _, code in envelope._MESH_FAILURES.values())}
    # Made of the kind of what is not known, and words of functions that the calls above do not name.
    others = {"unknown_prompt", "unknown_resource", "token_missing", "insufficient_scope", "forbidden", "token_refused"}
    known = codes_in_calls() | by_exit | by_rest | others
    rows = {row for row in rows_of_page() if CODE.fullmatch(row)}
    assert known - rows == set(), "docs/errors.md lacks these"
    assert rows - known == set(), "docs/errors.md has these, the code does not"


def test_each_code_of_json_rpc_has_its_row() -> None:
    codes = {
        str(value)
        for module in (errors, rpc_codes)
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, int) and value < 0 and name not in NO_ERRORS
    }
    rows = {row for row in rows_of_page() if row.startswith("-")}
    assert rows == codes
