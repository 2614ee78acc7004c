"""deploy/kubernetes: manifests that a cluster would take, with the same rights and limits as docker-compose.yml."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml

from service.settings import read_settings
from tests.tools import find_tool

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "deploy" / "kubernetes"
MANIFESTS = sorted(path.name for path in FOLDER.glob("*.yaml") if path.name != "kustomization.yaml")


def documents() -> dict[str, dict[str, Any]]:
    """By kind; there is one of each but for claims."""
    read = [each for name in MANIFESTS for each in yaml.safe_load_all((FOLDER / name).read_text())]
    return {each["kind"]: each for each in read}


def pods() -> dict[str, dict[str, Any]]:
    found = documents()
    return {
        "service": found["StatefulSet"]["spec"]["template"],
        "backup": found["CronJob"]["spec"]["jobTemplate"]["spec"]["template"],
    }


def test_every_manifest_is_valid_and_nothing_in_it_is_unknown(tmp_path: Path) -> None:
    tool = find_tool("kubernetes-validate")
    files = [str(FOLDER / name) for name in MANIFESTS]
    done = subprocess.run([tool, "--strict", *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (done.stdout + done.stderr).count(" passed ") == 5
    broken = tmp_path / "broken.yaml"
    broken.write_text((FOLDER / "vitascope.yaml").read_text().replace("replicas: 1", "replica: 1"))
    assert subprocess.run([tool, "--strict", str(broken)], capture_output=True).returncode != 0


def test_kustomize_takes_every_manifest() -> None:
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    assert sorted(kustomization["resources"]) == MANIFESTS
    assert [image["name"] for image in kustomization["images"]] == ["vitascope"]
    assert {container["image"] for pod in pods().values() for container in pod["spec"]["containers"]} == {"vitascope"}


def test_a_pod_has_no_rights_and_limits_to_what_it_takes() -> None:
    for pod in pods().values():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == spec["securityContext"]["fsGroup"] == 10001
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        (container,) = spec["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert set(container["resources"]["limits"]) == {"cpu", "memory"}
        assert all("sizeLimit" in each["emptyDir"] for each in spec["volumes"] if "emptyDir" in each)


def test_the_service_takes_the_settings_and_answers_the_probes(monkeypatch: Any) -> None:
    """As the cluster would: by the pod's address, at the port where any name is answered."""
    spec = pods()["service"]["spec"]
    assert spec["enableServiceLinks"] is False  # VITASCOPE_PORT would be tcp://…
    (container,) = spec["containers"]
    for each in container["env"]:
        monkeypatch.setenv(each["name"], each.get("value", "k" * 32))
    settings = read_settings()
    probes = [container[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")]
    assert [probe["path"] for probe in probes] == ["/readyz", "/readyz", "/livez"]
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert {ports[probe["port"]] for probe in probes} == {settings.health_port}
    assert spec["terminationGracePeriodSeconds"] > settings.shutdown_delay + settings.shutdown_timeout
    gib = (settings.decode_processes * settings.decode_memory_bytes) // 1024**3 + 1
    assert container["resources"]["limits"]["memory"] == f"{gib}Gi"
    assert not {each["name"] for each in container["env"]} - {
        f"VITASCOPE_{name.upper()}" for name in type(settings).model_fields
    }


def test_everything_that_is_named_is_there() -> None:
    """Selectors, the claim of the only pod, the secret that kustomization.yaml says how to make."""
    found = documents()
    labels = pods()["service"]["metadata"]["labels"]
    assert found["StatefulSet"]["spec"]["replicas"] == 1
    assert found["StatefulSet"]["spec"]["selector"]["matchLabels"] == labels
    assert found["Service"]["spec"]["selector"] == labels
    affinity = pods()["backup"]["spec"]["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert affinity[0]["labelSelector"]["matchLabels"] == labels
    for pod in pods().values():
        assert found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    claims = {
        each["persistentVolumeClaim"]["claimName"]
        for each in pods()["backup"]["spec"]["volumes"]
        if "persistentVolumeClaim" in each
    }
    assert claims == {"data-vitascope-0", found["PersistentVolumeClaim"]["metadata"]["name"]}
    secret = pods()["service"]["spec"]["containers"][0]["env"][0]["valueFrom"]["secretKeyRef"]
    assert (
        f"secret generic {secret['name']} --from-literal={secret['key']}="
        in (FOLDER / "kustomization.yaml").read_text()
    )
