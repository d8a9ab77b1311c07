"""The monitoring kit against the metrics that exist: rules, their tests and the dashboard name nothing else.

`docs/metrics.md` has a row for each metric with its labels, which other tests hold to the code; this one holds the kit
to those rows. The one rule: what promtool judges is what the kit holds, word for word.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.debian_binary import PROMTOOL, debian_binary, why_not

ROOT = Path(__file__).parents[3]
KIT = ROOT / "monitoring"
METRICS_PAGE = (ROOT / "docs/metrics.md").read_text()
ROW = re.compile(r"^\| `(mesh_[a-z_]+)` \|([^|]*)\|", re.MULTILINE)
LABELS = {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in ROW.findall(METRICS_PAGE)}
OF_PROMETHEUS = {"job", "instance"}
# What the Prometheus client and Prometheus itself have besides.
OTHERS = {"up", "process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"}
SEVERITIES = {"page", "ticket"}
RULES: list[dict[str, Any]] = yaml.safe_load((KIT / "alerts.yml").read_text())["groups"][0]["rules"]
DASHBOARD: dict[str, Any] = json.loads((KIT / "dashboard.json").read_text())


def promtool() -> Path:
    found = debian_binary(PROMTOOL, fetch=False)
    if found is None:
        pytest.skip(f"NO PROMTOOL ({why_not()}); `python -m tests.debian_binary` fetches one")
    return found


def run(*words: object) -> None:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def expressions() -> Iterator[tuple[str, str]]:
    """Where an expression stands, and the expression with Grafana's variables filled in."""
    for rule in RULES:
        yield rule["alert"], rule["expr"]
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield (
                panel["title"],
                re.sub(r"\$__rate_interval", "5m", re.sub(r"\$(job|instance)", "mesh", target["expr"])),
            )


def complaints(expression: str) -> Iterator[str]:
    """Metrics and labels of an expression that no node has."""
    named = set(re.findall(r"\b(mesh_\w+|process_\w+|up)\b", expression))
    known = OF_PROMETHEUS | {"le"}
    for name in named - OTHERS:
        family = name.removesuffix("_bucket")
        if family not in LABELS:
            yield f"{name} is no metric"
        known |= LABELS.get(family, set())
    selected = {label for body in re.findall(r"\{([^}]*)\}", expression) for label in re.findall(r"(\w+)\s*[=!]", body)}
    grouped = {label for body in re.findall(r"\bby \(([^)]*)\)", expression) for label in re.findall(r"\w+", body)}
    yield from (f"{label} is no label of {sorted(named)}" for label in sorted((selected | grouped) - known))


def test_rules_and_panels_use_metrics_and_labels_that_nodes_have() -> None:
    found = [f"{place}: {text}" for place, expression in expressions() for text in complaints(expression)]
    assert LABELS
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [
        ("mesh_no_such_thing > 0", "mesh_no_such_thing is no metric"),
        ('mesh_peer_up{backend="x"}', "backend is no label of ['mesh_peer_up']"),
        ("sum by (tool) (mesh_links)", "tool is no label of ['mesh_links']"),
    ],
)
def test_a_metric_or_label_that_no_node_has_is_found(expression: str, complaint: str) -> None:
    assert list(complaints(expression)) == [complaint]


def test_every_rule_says_its_cause_and_fix_and_names_a_section_that_exists() -> None:
    assert len(RULES) >= 10
    for rule in RULES:
        assert rule["labels"]["severity"] in SEVERITIES
        said = rule["annotations"]
        assert said.keys() == {"summary", "cause", "fix", "runbook"}
        page, _, section = said["runbook"].partition("#")
        headings = re.findall(r"^## (.+)$", (ROOT / page).read_text(), re.MULTILINE)
        assert section in [heading.lower() for heading in headings]
        assert rule["alert"].lower() == section


def test_the_page_of_metrics_says_which_alert_uses_which_metric() -> None:
    rows = re.findall(r"^\| `(Mesh\w+)` \| ([^|]+) \|", METRICS_PAGE, re.MULTILINE)
    said = {name: set(re.findall(r"`(\w+)`", metrics)) for name, metrics in rows}
    assert said == {rule["alert"]: set(re.findall(r"\b(mesh_\w+|up)\b", rule["expr"])) for rule in RULES}


def test_every_alert_has_a_test_in_which_it_fires() -> None:
    tested = (KIT / "alerts.test.yml").read_text()
    assert [rule["alert"] for rule in RULES if f'alertname="{rule["alert"]}"' not in tested] == []


def test_promtool_finds_that_each_alert_fires_for_its_fault_and_none_for_a_mesh_that_is_well() -> None:
    run(promtool(), "test", "rules", KIT / "alerts.test.yml")


def test_promtool_can_read_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{number}", "expr": text} for number, (_, text) in enumerate(expressions())]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    run(promtool(), "check", "rules", tmp_path / "rules.yml")


@pytest.mark.parametrize("name", ["prometheus.yml", "prometheus.token.yml"])
def test_promtool_takes_the_configuration_and_its_rules(name: str, tmp_path: Path) -> None:
    config = yaml.safe_load((KIT / name).read_text())
    assert config["rule_files"] == ["alerts.yml"]
    for job in config["scrape_configs"]:
        # Debian builds Prometheus without the discovery of some systems, Consul's among them.
        assert job.pop("consul_sd_configs")
        job.pop("authorization", None)
        job["static_configs"] = [{"targets": ["127.0.0.1:8000"]}]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    (tmp_path / "alerts.yml").write_text((KIT / "alerts.yml").read_text())
    run(promtool(), "check", "config", tmp_path / "prometheus.yml")


def test_the_dashboard_can_be_imported_anywhere() -> None:
    assert DASHBOARD["id"] is None, "an ID is its Grafana's own"
    assert re.fullmatch(r"[a-z0-9-]{1,40}", DASHBOARD["uid"])
    assert DASHBOARD["schemaVersion"] >= 39
    (source,) = [variable for variable in DASHBOARD["templating"]["list"] if variable["type"] == "datasource"]
    assert (source["name"], source["query"]) == ("datasource", "prometheus")
    uids = set(re.findall(r'"uid": "([^"]*)"', (KIT / "dashboard.json").read_text()))
    assert uids == {"${datasource}", DASHBOARD["uid"]}


def test_panels_have_ids_of_their_own_a_description_and_room() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        assert panel["type"] == "row" or panel["description"]
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + right, place["y"] + down) for right in range(place["w"]) for down in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
