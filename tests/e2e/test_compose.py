"""The container files as they are written: ports, times, tokens, policies, Consul's own opinion of its configuration.

test_compose_running.py starts them where Docker is. The one rule: published ports are loopback's.
"""

import asyncio
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.authority.grant import Scope
from agent.config.table import SETTINGS
from agent.config.tokens_file import read_tokens_file
from tests.consul_binary import consul_binary
from tests.consul_process import MASTER_TOKEN, running_consul
from tests.e2e.compose_stack import base_image

ROOT = Path(__file__).parents[2]
NODES = ("node1", "node2", "node")
CONSUL_SERVERS = ("consul1", "consul2", "consul3")
OVERLAY = "docker-compose.token.yml"
DRAIN_S = 30


def load(name: str) -> dict[str, Any]:
    loaded = yaml.safe_load((ROOT / name).read_text())
    assert isinstance(loaded, dict)
    return loaded


@pytest.fixture
def services() -> dict[str, Any]:
    return dict(load("docker-compose.yml")["services"])


@pytest.fixture
def overlay() -> dict[str, Any]:
    return dict(load(OVERLAY)["services"])


def test_every_published_port_is_on_loopback_and_the_nodes_are_on_8001_and_8002(services: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)
    assert published["node1"] == ["127.0.0.1:8001:8000"]
    assert published["node2"] == ["127.0.0.1:8002:8000"]
    assert "node" not in published, "a service with a fixed port cannot be scaled"


@pytest.mark.parametrize("name", NODES)
def test_node_gets_more_time_to_stop_than_draining_takes(services: dict[str, Any], name: str) -> None:
    assert int(services[name]["stop_grace_period"].removesuffix("s")) > DRAIN_S
    assert services[name]["init"] is True
    assert services[name]["depends_on"] == {
        "consul": {"condition": "service_healthy"},
        "secret": {"condition": "service_completed_successfully"},
    }
    assert "mesh-secrets:/run/mesh-secrets:ro" in services[name]["volumes"]


def test_images_of_others_are_named_by_tag_and_digest_and_consuls_is_the_same_everywhere() -> None:
    files = [load(path.name) for path in sorted(ROOT.glob("docker-compose*.yml"))]
    named = [service["image"] for file in files for service in file["services"].values() if "image" in service]
    foreign = {image for image in named if image != "mcp-mesh-agent"}
    for image in foreign:
        assert re.fullmatch(r"[a-z/]+:v?[0-9]+\.[0-9]+\.[0-9]+@sha256:[0-9a-f]{64}", image)
    assert {image.partition(":")[0] for image in foreign} == {"hashicorp/consul", "prom/prometheus"}
    assert len(foreign) == 2


def test_one_service_alone_builds_the_image_and_all_others_of_it_wait_for_that(
    services: dict[str, Any], overlay: dict[str, Any]
) -> None:
    """Services that build one tag in turn leave it on the last build, and the next `up` replaces all running nodes."""
    both = {name: services.get(name, {}) | overlay.get(name, {}) for name in services.keys() | overlay.keys()}
    ours = {name: service for name, service in both.items() if service.get("image") == "mcp-mesh-agent"}
    assert ours.keys() == {*NODES, "secret", "token"}
    assert [name for name, service in both.items() if "build" in service] == ["secret"]
    waiting = {**services, "token": overlay["token"]}
    for name in ours.keys() - {"secret"}:
        assert both[name]["pull_policy"] == "never", "no registry has our image"
        assert waiting[name]["depends_on"]["secret"] == {"condition": "service_completed_successfully"}


@pytest.mark.parametrize("name", NODES)
def test_node_is_open_by_default_and_asks_for_a_token_with_the_overlay(
    services: dict[str, Any], overlay: dict[str, Any], name: str
) -> None:
    assert services[name]["environment"]["MESH_ALLOW_ANONYMOUS"] == "1"
    assert overlay[name]["environment"]["MESH_ALLOW_ANONYMOUS"] == ""
    assert overlay[name]["environment"]["MESH_TOKEN_FILE"] == "/run/mesh-secrets/token"
    assert overlay[name]["depends_on"]["token"] == {"condition": "service_completed_successfully"}


def test_every_setting_in_the_container_files_exists(services: dict[str, Any], overlay: dict[str, Any]) -> None:
    known = {setting.env for setting in SETTINGS}
    named = {key for service in (*services.values(), *overlay.values()) for key in service.get("environment", {})}
    named |= set(re.findall(r"\b(HOST|PORT|MESH_[A-Z_]+)=", (ROOT / "Dockerfile").read_text()))
    assert {name for name in named if not name.startswith("CONSUL_")} <= known


def test_consul_is_a_cluster_of_three_with_fixed_and_different_identities(services: dict[str, Any]) -> None:
    agents = (*CONSUL_SERVERS, "consul")
    identities = {next(arg for arg in services[name]["command"] if "-node-id" in arg) for name in agents}
    assert len(identities) == len(agents)
    for text in ((ROOT / "consul" / f"{role}.hcl").read_text() for role in ("server", "client")):
        assert re.findall(r'"(consul\d)"', text) == list(CONSUL_SERVERS)


def test_files_that_compose_mounts_exist(services: dict[str, Any], overlay: dict[str, Any]) -> None:
    volumes = [volume for service in (*services.values(), *overlay.values()) for volume in service.get("volumes", ())]
    mounted = [ROOT / volume.split(":")[0] for volume in volumes if volume.startswith("./")]
    assert mounted
    assert all(path.is_file() for path in mounted)


def test_prometheus_finds_the_service_that_nodes_register_and_differs_by_its_tokens_alone() -> None:
    (plain,) = load("monitoring/prometheus.yml")["scrape_configs"]
    (guarded,) = load("monitoring/prometheus.token.yml")["scrape_configs"]
    service_name = next(setting.default for setting in SETTINGS if setting.name == "service_name")
    assert plain["consul_sd_configs"][0]["services"] == [service_name]
    (kept,) = [rule for rule in plain["relabel_configs"] if rule.get("action") == "keep"]
    assert kept["source_labels"] == ["__meta_consul_service_metadata_node_id"]
    assert guarded.pop("authorization") == {"credentials_file": "/run/mesh-secrets/prometheus-token"}
    of_consul = guarded["consul_sd_configs"][0].pop("authorization")
    assert of_consul == {"credentials_file": "/run/mesh-secrets/prometheus-consul-token"}
    # What Prometheus is not told, it asks /v1/agent/self, which its token does not open (below): it would find nothing.
    named = guarded["consul_sd_configs"][0].pop("datacenter")
    for role in ("server", "client"):
        assert re.search(rf'^datacenter += "{named}"$', (ROOT / "consul" / f"{role}.hcl").read_text(), re.MULTILINE)
    assert plain == guarded


def test_only_one_file_publishes_consul_and_it_is_not_for_the_overlay(
    services: dict[str, Any], overlay: dict[str, Any]
) -> None:
    for name in ("consul", *CONSUL_SERVERS):
        both = {**services[name], **overlay[name]}
        assert "ports" not in both
        assert "-ui" not in both["command"]
        assert "-config-file=/consul/acl/acl.json" in overlay[name]["command"]
        assert [arg for arg in overlay[name]["command"] if "acl.json" not in arg] == services[name]["command"]
    published = load("docker-compose.ui.yml")["services"]["consul"]
    assert published["ports"] == ["127.0.0.1:8500:8500"]
    assert [arg for arg in published["command"] if arg != "-ui"] == services["consul"]["command"]


def make_tokens(overlay: dict[str, Any], folder: Path) -> None:
    """Run what the overlay runs once, twice, in a folder that stands for both volumes."""
    (script,) = overlay["token"]["command"]
    here = script.replace("/run/mesh-secrets", str(folder)).replace("/run/consul-acl", str(folder))
    for _ in range(2):
        subprocess.run([sys.executable, "-c", here.replace("os.chown(", "(lambda *_: None)(")], check=True, timeout=30)


@pytest.mark.consul
async def test_tokens_of_the_overlay_open_in_a_real_consul_what_each_needs_and_no_more(
    overlay: dict[str, Any], tmp_path: Path
) -> None:
    binary = consul_binary(fetch=False)
    if binary is None:
        pytest.skip("NO CONSUL BINARY: the overlay's tokens were not tried")
    make_tokens(overlay, tmp_path)
    block = json.loads((tmp_path / "acl.json").read_text())["acl"]
    assert (block["enabled"], block["default_policy"]) == (True, "deny")
    tokens = dict(line.split("=") for line in (tmp_path / "tokens.env").read_text().split())
    assert block["tokens"] == {"initial_management": tokens["MANAGEMENT"], "agent": tokens["AGENT"]}
    assert (tmp_path / "consul-token").read_text().strip() == tokens["NODE"]
    assert len(set(tokens.values())) == 4
    async with running_consul(binary, tmp_path, acl=True) as consul:
        known = (tmp_path / "tokens.env").read_text().replace(tokens["MANAGEMENT"], MASTER_TOKEN)
        (tmp_path / "known.env").write_text(known)
        words = ["sh", ROOT / "docker/consul-tokens.sh", tmp_path / "known.env", ROOT / "consul/policies", "once"]
        environ = {"PATH": f"{binary.parent}:/usr/bin:/bin", "CONSUL_HTTP_ADDR": consul.url, "MARK": tmp_path / "mark"}
        for made in (3, 0):
            process = await asyncio.create_subprocess_exec(*words, env=environ, stdout=subprocess.PIPE)
            said, _ = await process.communicate()
            assert (process.returncode, said.count(b"made the token")) == (0, made)
        mesh, other = ({"Name": name, "ID": name} for name in ("mcp-node", "other"))
        await consul.call("PUT", "/v1/agent/service/register", mesh, token=tokens["NODE"])
        for token, service in ((tokens["NODE"], other), (tokens["PROMETHEUS"], mesh), ("", mesh)):
            with pytest.raises(RuntimeError, match="403"):
                await consul.call("PUT", "/v1/agent/service/register", service, token=token)
        (found,) = await consul.call("GET", "/v1/health/service/mcp-node?dc=dc1", token=tokens["PROMETHEUS"])
        assert found["Service"]["ID"] == "mcp-node"
        with pytest.raises(RuntimeError, match="403"):
            await consul.call("GET", "/v1/agent/self", token=tokens["PROMETHEUS"])
        seen = [
            len(await consul.call("GET", "/v1/health/service/mcp-node", token=token))
            for token in (tokens["NODE"], tokens["PROMETHEUS"], "")
        ]
        assert seen == [1, 1, 0]


def test_prometheus_gets_a_token_of_its_own_that_opens_the_metrics_alone(
    overlay: dict[str, Any], tmp_path: Path
) -> None:
    make_tokens(overlay, tmp_path)
    (token,) = read_tokens_file(tmp_path / "tokens.json")
    assert token.grant.scopes == {Scope.METRICS}
    presented = (tmp_path / "prometheus-token").read_text().strip()
    assert token.digests == (hashlib.sha256(presented.encode()).digest(),)
    assert presented != (tmp_path / "token").read_text().strip()
    assert overlay["node1"]["environment"]["MESH_TOKENS_FILE"] == "/run/mesh-secrets/tokens.json"


def test_image_runs_as_an_ordinary_user_from_the_hashed_lock() -> None:
    final = (ROOT / "Dockerfile").read_text()
    assert re.search(r"^USER 10001:10001$", final, re.MULTILINE)
    assert "--no-deps --require-hashes" in final
    assert not re.search(r"apt-get|curl|wget", final), "nothing unlocked goes into the image"


def test_build_needs_no_image_but_pythons() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"${PYTHON_IMAGE}"}
    assert re.fullmatch(r"python:3\.11-slim-bookworm@sha256:[0-9a-f]{64}", base_image())
    assert not re.match(r"#\s*syntax\s*=", text), "BuildKit would pull this frontend from Docker's registry"


@pytest.mark.consul
@pytest.mark.parametrize("role", ["server", "client"])
def test_access_control_as_described_gives_the_agent_a_token_of_its_own(role: str, tmp_path: Path) -> None:
    binary = consul_binary(fetch=False)
    if binary is None:
        pytest.skip("NO CONSUL BINARY: the HCL files were not validated")
    text = (ROOT / "consul" / f"{role}.hcl").read_text()
    (described,) = re.findall(r"^# acl \{\n(?:# .*\n)*?# \}\n", text, re.MULTILINE)
    block = re.sub("^# ", "", described, flags=re.MULTILINE)
    assert 'agent = "<the agent\'s own token>"' in block
    (tmp_path / f"{role}.hcl").write_text(text.replace(described, block).replace("{{ GetPrivateIP }}", "127.0.0.1"))
    seen = subprocess.run([binary, "validate", tmp_path], capture_output=True, text=True, timeout=30, check=False)
    assert seen.returncode == 0, seen.stdout + seen.stderr


@pytest.mark.consul
@pytest.mark.parametrize("role", ["server", "client"])
def test_consul_accepts_the_configuration(role: str, tmp_path: Path) -> None:
    binary = consul_binary(fetch=False)
    if binary is None:
        pytest.skip("NO CONSUL BINARY: the HCL files were not validated")
    # A folder of its own: validate merges whatever lies in one. A machine without a network has no private address.
    text = (ROOT / "consul" / f"{role}.hcl").read_text()
    assert "{{ GetPrivateIP }}" in text
    (tmp_path / f"{role}.hcl").write_text(text.replace("{{ GetPrivateIP }}", "127.0.0.1"))
    seen = subprocess.run([binary, "validate", tmp_path], capture_output=True, text=True, timeout=30, check=False)
    assert seen.returncode == 0, seen.stdout + seen.stderr


def test_mesh_policy_gives_a_node_its_own_name_and_nothing_else() -> None:
    rules = re.findall(
        r'^(\w+) "([^"]*)" \{\n  policy = "(\w+)"', (ROOT / "consul/policies/mesh-node.hcl").read_text(), re.MULTILINE
    )
    assert rules == [
        ("service", "mcp-node", "write"),
        ("service_prefix", "mcp-node", "read"),
        ("node_prefix", "", "read"),
    ]
