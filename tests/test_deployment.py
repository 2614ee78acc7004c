"""docker-compose.yml and deploy/kubernetes: profiles, privileges, limits, networks and settings."""

from __future__ import annotations

import json
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import read_settings
from tests.composed import ADMIN, PROFILES, STORES, compose, run_compose
from tests.tools import find_tool
from vitascope.cli.main import build_parser

ROOT = Path(__file__).parents[1]
SERVED = {"cpu": "service", "gpu": "gpu", "distributed": "distributed"}
"""Services of the HTTP port, by profile."""
ONCE = {"index", "backup", "prepare"}
INTERNAL = {"watch", "front", "cluster", "stores"}
MIB = 1024**2


@cache
def whole() -> dict[str, Any]:
    return compose(*PROFILES)


def services(*profiles: str) -> dict[str, dict[str, Any]]:
    all_services: dict[str, dict[str, Any]] = whole()["services"]
    return {name: each for name, each in all_services.items() if not profiles or set(each["profiles"]) & set(profiles)}


NAMES = sorted(
    name for name in yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
)  # known without docker-compose


def test_each_profile_starts_its_services() -> None:
    started = {
        "cpu": {"service"},
        "gpu": {"gpu"},
        "distributed": {"distributed", "prepare", "etcd", "minio", "milvus", "ray-head", "ray-worker"},
        "observability": {"prometheus", "grafana"},
        "proxy": {"proxy"},
        "index": {"index"},
        "backup": {"backup"},
    }
    assert {profile: set(services(profile)) for profile in PROFILES} == started
    assert set(compose("cpu", "observability")["services"]) == started["cpu"] | started["observability"]
    assert set(services()) == set(NAMES)


def test_services_start_by_name_and_profiles_by_environment() -> None:
    named = run_compose("config", "--format", "json", "service", VITASCOPE_ADMIN_KEY=ADMIN)
    kept = run_compose("config", "--services", VITASCOPE_ADMIN_KEY=ADMIN, COMPOSE_PROFILES="cpu,observability")
    assert set(json.loads(named.stdout)["services"]) == {"service"}
    assert set(kept.stdout.split()) == {"service", "prometheus", "grafana"}


def test_the_admin_key_is_required() -> None:
    without_key = run_compose("config")
    assert without_key.returncode != 0
    assert "VITASCOPE_ADMIN_KEY" in without_key.stderr
    for name in SERVED.values():
        environment = services()[name]["environment"]
        assert environment["VITASCOPE_ADMIN_KEY"] == ADMIN
        assert "VITASCOPE_ALLOW_UNAUTHENTICATED" not in environment


def test_the_stores_use_the_password_of_the_user() -> None:
    """`prepare`, the first service of the profile, fails with a message if the password is missing."""
    places = {
        ("distributed", "VITASCOPE_MILVUS_TOKEN"): f"root:{STORES}",
        ("ray-head", "VITASCOPE_MILVUS_TOKEN"): f"root:{STORES}",
        ("ray-head", "RAY_AUTH_TOKEN"): STORES,
        ("ray-worker", "RAY_AUTH_TOKEN"): STORES,
        ("milvus", "COMMON_SECURITY_DEFAULTROOTPASSWORD"): STORES,
        ("milvus", "MINIO_SECRET_ACCESS_KEY"): STORES,
        ("minio", "MINIO_ROOT_PASSWORD"): STORES,
        ("prepare", "VITASCOPE_STORES_KEY"): STORES,
    }
    assert {(name, key): services()[name]["environment"][key] for name, key in places} == places
    without = compose("distributed", settings={"VITASCOPE_STORES_KEY": ""})["services"]
    assert {without[name]["environment"][key] for name, key in places} == {"", "root:"}
    first = without["prepare"]
    command = [*first["entrypoint"], *(word.replace("$$", "$") for word in first["command"])]
    for key, status in (("", 2), (STORES, 0)):
        done = subprocess.run(command, env={"VITASCOPE_STORES_KEY": key}, capture_output=True, text=True)
        assert (done.returncode, "is needed in .env" in done.stderr) == (status, bool(status))
    waiting = {name for name, each in services("distributed").items() if "prepare" in reached(name)}
    assert waiting == set(services("distributed")) - {"prepare"}


def reached(name: str) -> set[str]:
    """Return the services that a service waits for, also indirectly."""
    direct = set(services()[name].get("depends_on", {}))
    return direct.union(*(reached(each) for each in direct))


@pytest.mark.parametrize("name", NAMES)
def test_containers_have_no_privileges_and_limited_resources(name: str) -> None:
    service = services()[name]
    user = service["user"].partition(":")[0]
    assert user.isdigit()
    assert int(user) > 0
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] is True
    assert not {"privileged", "cap_add", "devices", "pid", "ipc", "userns_mode"} & set(service)
    assert service.get("network_mode", "none") == "none"
    limits = service["deploy"]["resources"]["limits"]
    assert 0 < float(limits["cpus"]) <= 4
    assert 64 * MIB <= int(limits["memory"]) <= 8192 * MIB
    assert 0 < limits["pids"] <= 4096
    assert service["logging"] == {"driver": "json-file", "options": {"max-size": "10m", "max-file": "3"}}


@pytest.mark.parametrize("name", NAMES)
def test_containers_write_to_volumes_and_memory_only(name: str) -> None:
    service = services()[name]
    for mount in service["volumes"]:
        assert mount["type"] in ("volume", "bind")
        assert mount["type"] == "volume" or mount["read_only"]
        assert "docker.sock" not in mount["source"]
    assert all("size=" in each for each in service["tmpfs"])


@pytest.mark.parametrize("name", NAMES)
def test_containers_have_health_checks_and_stop_gracefully(name: str) -> None:
    service = services()[name]
    assert service["stop_grace_period"] == "30s"
    if name in ONCE:
        assert service["restart"] == "no"
        assert service["healthcheck"] == {"disable": True}
        return
    assert service["restart"] == "unless-stopped"
    ours = "HEALTHCHECK" in (ROOT / "Dockerfile").read_text() and name in SERVED.values()
    check = {} if ours else service["healthcheck"]
    assert ours or (check["test"][0] == "CMD" and check["retries"] and check["timeout"])
    for dependency in service.get("depends_on", {}).values():
        assert dependency["condition"] in ("service_healthy", "service_completed_successfully")


@pytest.mark.parametrize("name", NAMES)
def test_images_are_built_here_or_pinned(name: str) -> None:
    service = services()[name]
    repository, _, tag = service["image"].rpartition(":")
    if repository == "vitascope":
        extras = {"cpu": "cpu", "gpu": "gpu", "distributed": "cpu,milvus,ray"}
        assert service["build"]["args"] == {"EXTRA": extras[tag]}
    else:
        assert "build" not in service
        assert re.fullmatch(r"v?\d+\.\d+\.\d+|RELEASE\.\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ", tag), service["image"]


def test_ports_are_published_on_this_machine_only() -> None:
    published = {name: each["ports"] for name, each in services().items() if each.get("ports")}
    assert set(published) == {*SERVED.values(), "proxy", "grafana"}
    for name, ports in published.items():
        assert [port["host_ip"] for port in ports] == ["127.0.0.1"], name
        assert "default" in services()[name]["networks"]


def test_stores_and_cluster_are_on_internal_networks() -> None:
    networks = whole()["networks"]
    assert {name for name, each in networks.items() if each.get("internal")} == INTERNAL
    assert set(networks) == INTERNAL | {"default"}
    members = {
        name: {each for each in services() if name in (services()[each].get("networks") or {})} for name in networks
    }
    assert members == {
        "stores": {"etcd", "minio", "milvus"},
        "cluster": {"milvus", "ray-head", "ray-worker", "distributed"},
        "watch": {"prometheus", "grafana", *SERVED.values()},
        "front": {"proxy", *SERVED.values()},
        "default": {"grafana", "proxy", *SERVED.values()},
    }


def test_prometheus_reaches_the_service_of_every_profile() -> None:
    scraped = yaml.safe_load((ROOT / "observability" / "prometheus.yml").read_text())["scrape_configs"]
    (target,) = scraped[0]["static_configs"][0]["targets"]
    for name in SERVED.values():
        service = services()[name]
        host, _, port = target.partition(":")
        assert host in service["networks"]["watch"]["aliases"]
        assert host in service["environment"]["VITASCOPE_ALLOWED_HOSTS"]
        assert service["environment"]["VITASCOPE_PUBLIC_METRICS"] == "true"
        assert [str(each["target"]) for each in service["ports"]] == [port]


def test_the_proxy_reaches_the_service_of_every_profile_and_is_trusted() -> None:
    proxy, config = services()["proxy"], (ROOT / "deploy" / "nginx" / "nginx.conf").read_text()
    assert [mount["source"] for mount in proxy["volumes"]] == [str(ROOT / "deploy" / "nginx" / "nginx.conf")]
    (listen,) = re.findall(r"listen (\d+)", config)
    assert [str(each["target"]) for each in proxy["ports"]] == [listen]
    hosts = set(re.findall(r"server (\w+):\d+", config))
    (subnet,) = [each["subnet"] for each in whole()["networks"]["front"]["ipam"]["config"]]
    assert set(proxy["depends_on"]) == set(SERVED.values())
    for name in SERVED.values():
        assert hosts == set(services()[name]["networks"]["front"]["aliases"])
        assert json.loads(services()[name]["environment"]["VITASCOPE_TRUSTED_PROXIES"]) == [subnet]
        assert proxy["depends_on"][name]["restart"] is True  # it looks up the address of the service once


def test_memory_limits_cover_the_decoding_processes() -> None:
    """1 GiB each, and 1 GiB for the service."""
    for name in SERVED.values():
        service = services()[name]
        processes = int(service["environment"]["VITASCOPE_DECODE_PROCESSES"])
        assert int(service["deploy"]["resources"]["limits"]["memory"]) >= (processes + 1) * 1024 * MIB
        assert float(service["deploy"]["resources"]["limits"]["cpus"]) >= int(
            service["environment"]["VITASCOPE_THREADS"]
        )


def test_the_gpu_is_reserved_for_its_service() -> None:
    reserved = {
        name: [device["capabilities"] for device in devices]
        for name, each in services().items()
        if (devices := each["deploy"]["resources"].get("reservations", {}).get("devices"))
    }
    assert reserved == {"gpu": [["gpu"]]}


def test_volumes_of_other_images_get_their_owner() -> None:
    """`prepare` mounts each at a folder of the image with the owner that writes to it."""
    made = re.findall(r"install -d (?:-m 700 )?-o (\d+) -g (\d+) ([/\w ]+\w)", (ROOT / "Dockerfile").read_text())
    owner = {folder: f"{user}:{group}" for user, group, folders in made for folder in folders.split()}
    prepared = {mount["source"]: owner[mount["target"]] for mount in services()["prepare"]["volumes"]}
    assert prepared == {name: services()[name]["user"] for name in ("etcd", "minio", "milvus")}
    for name in (*SERVED.values(), "index", "backup", "ray-head"):
        for mount in services()[name]["volumes"]:
            if mount["type"] == "volume":
                assert owner[mount["target"]] == services()[name]["user"]


def test_the_backup_folder_and_port_are_settings() -> None:
    settings = {"VITASCOPE_BACKUPS": "/mnt/backups", "VITASCOPE_BACKUPS_KEPT": "30", "VITASCOPE_PORT": "9000"}
    chosen = compose("backup", "cpu", settings=settings)["services"]
    assert chosen["backup"]["command"] == ["backup", "/backups", "--keep=30"]
    places = {mount["target"]: (mount["type"], mount["source"]) for mount in chosen["backup"]["volumes"]}
    assert places == {"/data": ("volume", "data"), "/backups": ("bind", "/mnt/backups")}
    assert chosen["service"]["ports"][0]["published"] == "9000"


def test_commands_of_containers_and_of_the_page_are_valid() -> None:
    page = (ROOT / "docs" / "deploy.md").read_text()
    commands = [each["command"] for name, each in services().items() if name in ("index", "backup")]
    commands += [line.split() for line in re.findall(r"^\$ docker compose run --rm backup (\w.+)$", page, re.MULTILINE)]
    commands += [
        line.split() for line in re.findall(r"exec [\w-]+ vitascope ([^\"#\n]+?)(?: +#|$)", page, re.MULTILINE)
    ]
    assert len(commands) >= 5
    for words in commands:
        parser, _ = build_parser(words[0])
        assert parser.parse_args(words).command == words[0]


def test_the_overrides_of_the_page_are_valid(tmp_path: Path) -> None:
    settings, tls = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "deploy.md").read_text(), re.DOTALL)
    files = ["--file", str(ROOT / "docker-compose.yml")]
    for number, block in enumerate((settings, tls)):
        override = tmp_path / f"{number}.yml"
        override.write_text(block)
        files += ["--file", str(override)]
    done = run_compose(*files, "config", "--format", "json", "service", "proxy", VITASCOPE_ADMIN_KEY=ADMIN)
    assert done.returncode == 0, done.stderr
    merged = json.loads(done.stdout)["services"]
    service, proxy = merged["service"], merged["proxy"]
    added = {name: value for name, value in service["environment"].items() if name in settings}
    assert set(added) == {"VITASCOPE_MAX_VIDEO_BYTES", "VITASCOPE_BUNDLE"}
    assert service["environment"]["VITASCOPE_ADMIN_KEY"] == ADMIN
    assert [mount["target"] for mount in service["volumes"]] == ["/data", "/videos", "/bundles"]
    assert json.loads(service["environment"]["VITASCOPE_ALLOWED_HOSTS"]) == ["vitascope", "videos.example.org"]
    assert {port["target"] for port in proxy["ports"]} == {8080, 8443}
    assert "/etc/vitascope/tls" in {mount["target"] for mount in proxy["volumes"]}


def test_compose_lint_reports_no_problem() -> None:
    """compose-lint, with the exceptions of .compose-lint.yml."""
    command = [
        find_tool("compose-lint"),
        "check",
        "--no-env",
        "--fail-on",
        "low",
        "--strict-config",
        "docker-compose.yml",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "deploy" / "kubernetes"
MANIFESTS = sorted(path.name for path in FOLDER.glob("*.yaml") if path.name != "kustomization.yaml")


def documents() -> dict[str, dict[str, Any]]:
    """Return the manifests by kind."""
    read = [each for name in MANIFESTS for each in yaml.safe_load_all((FOLDER / name).read_text())]
    return {each["kind"]: each for each in read}


def pods() -> dict[str, dict[str, Any]]:
    manifests = documents()
    return {
        "service": manifests["StatefulSet"]["spec"]["template"],
        "backup": manifests["CronJob"]["spec"]["jobTemplate"]["spec"]["template"],
    }


def test_manifests_are_valid_and_have_no_unknown_fields(tmp_path: Path) -> None:
    tool = find_tool("kubernetes-validate")
    files = [str(FOLDER / name) for name in MANIFESTS]
    done = subprocess.run([tool, "--strict", *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (done.stdout + done.stderr).count(" passed ") == 5
    broken = tmp_path / "broken.yaml"
    broken.write_text((FOLDER / "vitascope.yaml").read_text().replace("replicas: 1", "replica: 1"))
    assert subprocess.run([tool, "--strict", str(broken)], capture_output=True).returncode != 0


def test_kustomize_includes_every_manifest() -> None:
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    assert sorted(kustomization["resources"]) == MANIFESTS
    assert [image["name"] for image in kustomization["images"]] == ["vitascope"]
    assert {container["image"] for pod in pods().values() for container in pod["spec"]["containers"]} == {"vitascope"}


def test_pods_have_no_privileges_and_limited_resources() -> None:
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


def test_settings_and_probes_of_the_pod_are_valid(monkeypatch: Any) -> None:
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


def test_names_in_the_manifests_match() -> None:
    """Selectors, the claim of the only pod, and the secret that kustomization.yaml describes."""
    manifests = documents()
    labels = pods()["service"]["metadata"]["labels"]
    assert manifests["StatefulSet"]["spec"]["replicas"] == 1
    assert manifests["StatefulSet"]["spec"]["selector"]["matchLabels"] == labels
    assert manifests["Service"]["spec"]["selector"] == labels
    affinity = pods()["backup"]["spec"]["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert affinity[0]["labelSelector"]["matchLabels"] == labels
    for pod in pods().values():
        assert (
            manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"].items()
            <= pod["metadata"]["labels"].items()
        )
    claims = {
        each["persistentVolumeClaim"]["claimName"]
        for each in pods()["backup"]["spec"]["volumes"]
        if "persistentVolumeClaim" in each
    }
    assert claims == {"data-vitascope-0", manifests["PersistentVolumeClaim"]["metadata"]["name"]}
    secret = pods()["service"]["spec"]["containers"][0]["env"][0]["valueFrom"]["secretKeyRef"]
    assert (
        f"secret generic {secret['name']} --from-literal={secret['key']}="
        in (FOLDER / "kustomization.yaml").read_text()
    )
