"""The rows: published servers (`servers.toml`), clients (`clients.toml`), and both together (`scenarios.toml`), pinned.

Each says what must come of it; in a scenario more than plain calls passes: pages, tasks, questions.

Words in braces in a row stand for places: `{bin}` the programs of its group, `{node}` our Node, `{modules}` the
`node_modules` of its group, `{folder}` a folder of the run's own with the row's `files`, `{site}` a small web site on
the loopback, `{port}` the server's port, `{python}` our interpreter, `{root}` our repository. The one rule: a row says
what must be right, also where it is wrong today.
"""

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Call:
    """A call and what its text must match; of a wrong call the error's text."""

    tool: str
    arguments: dict[str, Any]
    expect: str = ""


@dataclass(frozen=True)
class Server:
    """A published server."""

    name: str
    package: str  # `name==version`
    registry: str  # pypi or npm
    group: str
    command: list[str]
    tools: int  # At least so many are listed.
    language: str = "Python"
    sdk: str = ""  # Of a Python server, the lock says it.
    transport: str = "stdio"  # Or http, or sse (2024-11-05); then `command` listens on {port}.
    path: str = "/mcp"
    environment: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    legacy_only: bool = False  # Directly, only a client that begins with `initialize` can use it.
    git: bool = False  # {folder} is a git repository with one commit.
    call: Call | None = None  # Without one, the server is listed only: its tools need an account or a network.
    wrong: Call | None = None
    busy: Call | None = None  # A call that works for `busy_s` and answers.
    busy_s: float = 0.0
    selected: bool = False  # Part of `make test`.
    note: str = ""


@dataclass(frozen=True)
class Client:
    """A published client."""

    name: str
    package: str
    registry: str
    group: str
    language: str
    script: str = ""  # In clients/.
    wrong: str = "returned"  # How it shows an isError result: returned, raised, or text.
    long_s: float = 70.0  # Its own time-out ends longer calls; 0 means that this is not asked.
    pages: bool = True  # Whether it asks for a second page.
    refusal: bool = True  # Whether it can show the text of a refusal at all.
    lasting: bool = True  # Whether one object lives through several calls.
    calls: bool = True  # Whether it can call a tool without a model.
    program: list[dict[str, Any]] = field(default_factory=list)  # A command line: its steps instead of a script.
    environment: dict[str, str] = field(default_factory=dict)  # Of a command line.
    query: str = ""  # Behind the node's URL, for a client that needs one of its choices.
    selected: bool = False
    note: str = ""


@dataclass(frozen=True)
class Scenario:
    """A published server over HTTP, and a published client that does something with it in steps."""

    name: str
    package: str  # The server's; `name==version`.
    registry: str
    group: str  # Where both are.
    language: str
    command: list[str]  # Listens on {port}.
    script: str  # The client, in clients/.
    steps: dict[str, str]  # What each must come to.
    arguments: dict[str, Any] = field(default_factory=dict)  # Of the script.
    environment: dict[str, str] = field(default_factory=dict)
    own: bool = False  # Also at `/mcp/s/it`, by the server's own names.
    in_browser: bool = False  # The client is a page in Chromium, on the loopback.
    note: str = ""


def servers() -> dict[str, Server]:
    """All servers by name."""
    return {row["name"]: _server(row) for row in _read("servers.toml")["server"]}


def clients() -> dict[str, Client]:
    """All clients by name."""
    return {row["name"]: Client(**row) for row in _read("clients.toml")["client"]}


def scenarios() -> dict[str, Scenario]:
    """All scenarios by name."""
    return {row["name"]: Scenario(**row) for row in _read("scenarios.toml")["scenario"]}


def filled(value: Any, places: dict[str, str]) -> Any:
    """`value` with the words in braces replaced, in lists and objects too."""
    match value:
        case str():
            for name, place in places.items():
                value = value.replace(f"{{{name}}}", place)
            return value
        case list():
            return [filled(one, places) for one in value]
        case dict():
            return {key: filled(one, places) for key, one in value.items()}
        case _:
            return value


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((HERE / name).read_text())


def _server(row: dict[str, Any]) -> Server:
    if row["registry"] == "pypi":
        lock = (HERE / "locks" / f"{row['group']}.txt").read_text()
        row["sdk"] = " ".join(re.findall(r"^(?:fast)?mcp==[\d.]+", lock, re.MULTILINE)[:1]).replace("==", " ")
    calls = {key: Call(**row[key]) for key in ("call", "wrong", "busy") if key in row}
    return Server(**{**row, **calls})
