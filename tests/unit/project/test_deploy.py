"""The deploy kit as it is written: hardening, drain times, settings that exist. Its proxies run in tests/e2e.

The one rule: what a node takes for its drain, each of these gives it.
"""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.app.drain import DRAIN_TIMEOUT_S
from agent.config.table import SETTINGS

ROOT = Path(__file__).parents[3]
KIT = ROOT / "deploy"
UNIT = KIT / "systemd/mesh-agent.service"
EXPOSURE_MAX = 2.0
OBJECTS: list[dict[str, Any]] = list(yaml.safe_load_all((KIT / "kubernetes/mesh.yaml").read_text()))


def unit_settings() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"^(\w+)=(.*)$", UNIT.read_text(), re.MULTILINE):
        found.setdefault(name, []).append(value)
    return found


def the(kind: str, name: str = "mesh") -> dict[str, Any]:
    (found,) = [one for one in OBJECTS if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


def pod() -> dict[str, Any]:
    template: dict[str, Any] = the("StatefulSet")["spec"]["template"]
    return template["spec"]


def node_container() -> dict[str, Any]:
    container: dict[str, Any] = pod()["containers"][0]
    return container


def node_environment() -> dict[str, str]:
    return {one["name"]: one.get("value", "") for one in node_container()["env"]}


def test_every_setting_that_the_kit_names_exists() -> None:
    text = "\n".join(path.read_text() for path in sorted(KIT.rglob("*")) if path.is_file())
    named = set(re.findall(r"\bMESH_[A-Z][A-Z_]*[A-Z]\b", text))
    assert named
    assert not named - {setting.env for setting in SETTINGS}


def test_the_unit_is_hardened_as_systemd_judges_it() -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("NO SYSTEMD-ANALYZE: the unit was not judged; Debian's package systemd has it")
    words = ["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE_MAX * 10:.0f}", str(UNIT)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_unit_has_no_word_that_systemd_does_not_know(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("NO SYSTEMD-ANALYZE: the unit was not judged; Debian's package systemd has it")
    # It also looks whether the command is there.
    (tmp_path / UNIT.name).write_text(UNIT.read_text().replace("/opt/mesh-agent/bin/mesh-agent", "/bin/true"))
    words = ["systemd-analyze", "verify", "--man=no", str(tmp_path / UNIT.name)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert UNIT.name not in done.stderr


def test_the_unit_lets_a_node_drain_and_does_not_repeat_a_refused_configuration() -> None:
    settings = unit_settings()
    assert int(settings["TimeoutStopSec"][0]) > DRAIN_TIMEOUT_S
    assert settings["KillMode"] == ["mixed"], "children go on until the node has drained"
    assert settings["RestartPreventExitStatus"] == ["2"]
    assert "MemoryDenyWriteExecute" not in settings, "servers in Node could not run"


def test_nodes_in_kubernetes_drain_before_they_are_killed() -> None:
    (pause,) = re.findall(r"\d+", " ".join(node_container()["lifecycle"]["preStop"]["exec"]["command"]))
    assert pod()["terminationGracePeriodSeconds"] > DRAIN_TIMEOUT_S + int(pause)


def test_pods_keep_the_restricted_standard_of_kubernetes() -> None:
    """Pod Security Standards, "Restricted"."""
    assert the("Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    spec, container = pod(), node_container()["securityContext"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["allowPrivilegeEscalation"] is False
    assert container["capabilities"] == {"drop": ["ALL"]}
    assert container["readOnlyRootFilesystem"] is True
    assert spec["automountServiceAccountToken"] is False
    assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}
    kinds = {kind for volume in spec["volumes"] for kind in volume if kind != "name"}
    assert kinds <= {"secret", "configMap", "emptyDir", "persistentVolumeClaim", "projected", "downwardAPI"}


def test_the_user_of_the_pods_is_that_of_the_image() -> None:
    (user, group) = re.findall(r"^USER (\d+):(\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[0]
    context = pod()["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"]) == (int(user), int(group))
    assert re.findall(r"uid\s+= (\d+)", (KIT / "nomad/mesh.nomad.hcl").read_text()) == [user, user]


def test_nodes_in_kubernetes_find_each_other_by_the_headless_service() -> None:
    nodes = the("Service", "mesh-nodes")
    assert nodes["spec"]["clusterIP"] == "None"
    assert the("StatefulSet")["spec"]["serviceName"] == "mesh-nodes"
    labels = the("StatefulSet")["spec"]["template"]["metadata"]["labels"]
    for service in (nodes, the("Service")):
        assert service["spec"]["selector"].items() <= labels.items()
    port = nodes["spec"]["ports"][0]["port"]
    assert node_environment()["MESH_PEER_DNS"] == f"mesh-nodes.mesh.svc.cluster.local:{port}"
    assert "mesh.mesh.svc" in node_environment()["MESH_ALLOWED_HOSTS"].split(",")


def test_files_that_settings_name_in_kubernetes_are_mounted() -> None:
    mounts = {mount["mountPath"]: mount["name"] for mount in node_container()["volumeMounts"]}
    claims = [claim["metadata"]["name"] for claim in the("StatefulSet")["spec"]["volumeClaimTemplates"]]
    volumes = {volume["name"] for volume in pod()["volumes"]} | set(claims)
    assert set(mounts.values()) == volumes
    for name, value in node_environment().items():
        if value.startswith("/"):
            assert str(Path(value).parent) in mounts, name
    assert node_environment()["MESH_STATE_DIR"] not in mounts, "the top of a volume is not the node's own"


def test_probes_ask_what_needs_no_token() -> None:
    probes = {
        kind: node_container()[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")
    }
    assert probes == {"startup": "/readyz", "readiness": "/readyz", "liveness": "/healthz"}


def test_the_job_of_nomad_gives_a_node_its_time_and_one_allocation_at_once() -> None:
    job = (KIT / "nomad/mesh.nomad.hcl").read_text()
    (seconds,) = re.findall(r'kill_timeout = "(\d+)s"', job)
    assert int(seconds) > DRAIN_TIMEOUT_S
    assert re.search(r"max_parallel = 1$", job, re.MULTILINE)
    assert job.count("{") == job.count("}")
