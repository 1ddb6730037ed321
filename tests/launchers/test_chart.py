"""Slow: the chart, by the real helm, and against the schemas of Kubernetes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm"
VERSIONS = ("1.30", "1.34")


@pytest.fixture(scope="module")
def helm(tmp_path_factory: pytest.TempPathFactory) -> str:
    if found := shutil.which("helm"):
        return found
    tools = tmp_path_factory.mktemp("tools")
    environment = {**os.environ, "PYTHON": sys.executable}
    script = ROOT / "scripts" / "install-kubernetes-tools"
    subprocess.run([str(script), str(tools)], check=True, env=environment)
    return str(tools / "helm")


def render(helm: str, *options: str) -> str:
    words = [helm, "template", "ha", str(CHART), "-n", "dask", *options]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def objects(rendered: str) -> dict[tuple[str, str], Any]:
    documents = filter(None, yaml.safe_load_all(rendered))
    return {(each["kind"], each["metadata"]["name"]): each for each in documents}


def container(of: Any) -> Any:
    (one,) = of["spec"]["template"]["spec"]["containers"]
    return one


def test_helm_has_nothing_against_it(helm: str) -> None:
    subprocess.run([helm, "lint", "--strict", str(CHART)], check=True, capture_output=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_what_it_makes_is_valid(helm: str, version: str, tmp_path: Path) -> None:
    pytest.importorskip("kubernetes_validate")
    rendered = tmp_path / "rendered.yaml"
    rendered.write_text(render(helm))
    words = [sys.executable, "-m", "kubernetes_validate", "--strict", "-k", version, str(rendered)]
    subprocess.run(words, check=True, capture_output=True)


def test_each_option_of_a_command_line_exists(helm: str) -> None:
    made = objects(render(helm))
    for kind, name, program in (
        ("StatefulSet", "ha-peer", ["dask_ha", "--help"]),
        ("Deployment", "ha-worker", ["dask", "worker", "--help"]),
    ):
        module = "ha_scheduler.cli.main" if program[0] == "dask_ha" else "dask"
        words = [sys.executable, "-m", module, *program[1:]]
        known = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        used = {a.partition("=")[0] for a in container(made[kind, name])["args"] if a[:2] == "--"}
        assert used <= set(re.findall(r"--[a-z0-9-]+", known))


def test_peers_find_each_other_and_a_quorum_stays(helm: str) -> None:
    for replicas, away in ((3, 1), (5, 2)):
        made = objects(render(helm, "--set", f"peers.replicas={replicas}"))
        peer = made["StatefulSet", "ha-peer"]
        assert peer["spec"]["podManagementPolicy"] == "Parallel"
        (peers,) = [a for a in container(peer)["args"] if a.startswith("--peers=")]
        assert peers.count(".ha-peer.dask.svc") == replicas
        assert f"ha-peer-{replicas - 1}.ha-peer.dask.svc.cluster.local" in peers
        assert made["PodDisruptionBudget", "ha-peer"]["spec"]["maxUnavailable"] == away
        assert made["Service", "ha-peer"]["spec"]["publishNotReadyAddresses"] is True


def test_an_even_number_of_peers_is_refused(helm: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        render(helm, "--set", "peers.replicas=4")
    assert "odd number of peers" in refused.value.stderr


def test_no_pod_mounts_the_authority_and_the_engine_has_the_least_of_the_api(helm: str) -> None:
    rendered = render(helm)
    made = objects(rendered)
    for (kind, name), each in made.items():
        if kind in ("StatefulSet", "Deployment", "Job"):
            volumes = each["spec"]["template"]["spec"]["volumes"]
            assert "authority" not in str(volumes), name
    (rule,) = made["Role", "ha-peer"]["rules"]
    assert rule == {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "patch"]}


def test_workers_and_certificates_may_come_from_elsewhere(helm: str) -> None:
    options = ["workers.replicas=0", "certificates.create=false", "tokens.create=false"]
    made = objects(render(helm, *(word for option in options for word in ("--set", option))))
    assert {kind for kind, _ in made} == {
        *("Service", "PodDisruptionBudget", "ServiceAccount", "Role", "RoleBinding"),
        "StatefulSet",
    }
