"""What the last run of each row found, in `results.json`, so that single rows can be run anew.

The one rule: a quick run replaces only the checks that it made.
"""

import datetime as dt
from pathlib import Path
from typing import Any

import orjson

from tests.outside.checks import Check
from tests.outside.rows import Client, Scenario, Server, clients, scenarios, servers

FILE = Path(__file__).with_name("results.json")


def load() -> dict[str, dict[str, Any]]:
    """Row -> package, date and checks; rows that are in the tables no more are left out."""
    known = servers().keys() | clients().keys() | scenarios().keys()
    stored = orjson.loads(FILE.read_bytes()) if FILE.exists() else {}
    return {name: found for name, found in stored.items() if name in known}


def keep(row: Server | Client | Scenario, found: dict[str, Check] | str) -> None:
    """Write one row's result; `found` as a text says why there is none."""
    stored = load()
    before = stored.get(row.name, {})
    same = before.get("package") == row.package
    entry: dict[str, Any] = {"package": row.package, "date": dt.datetime.now(dt.UTC).date().isoformat()}
    if isinstance(found, str):
        entry |= {"failed": found, "checks": {}}
    else:
        earlier = before.get("checks", {}) if same else {}
        entry["checks"] = dict(earlier)
        for name, check in found.items():
            direct = check.direct or earlier.get(name, {}).get("direct", "")
            entry["checks"][name] = {**check.as_json(), "direct": direct}
    stored[row.name] = entry
    options = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE
    FILE.write_bytes(orjson.dumps(stored, option=options))
