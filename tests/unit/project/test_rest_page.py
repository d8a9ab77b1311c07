"""docs/rest.md against the code: each operation of REST has its row: scopes, parameters and what it does."""

from pathlib import Path

from agent.rest.openapi import OPERATIONS, paths_of

PAGE = Path(__file__).parents[3] / "docs/rest.md"


def row(method: str, path: str) -> str:
    operation = paths_of([(method, path)])[path][method.lower()]
    scopes = [scope for way in operation["security"] for scope in way.get("token", ())]
    takes = [f"`{one['name']}`" for one in operation.get("parameters", ()) if one["in"] == "query"]
    if (body := OPERATIONS[method, path].body) is not None:
        needed = body.get("required", ())
        takes += [f"`{name}`" if name in needed else f"`{name}`?" for name in body["properties"]]
    return f"| `{method} {path}` | {', '.join(scopes) or 'open'} | {', '.join(takes)} | {operation['summary']} |"


def test_each_operation_has_its_row_as_the_node_describes_it_and_no_row_is_of_another() -> None:
    found = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert sorted(found) == sorted(row(*operation) for operation in OPERATIONS)
