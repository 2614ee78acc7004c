"""docker-compose.yml: what each profile starts, and the rules that every container of every profile keeps."""

from __future__ import annotations

import json
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.composed import ADMIN, PROFILES, STORES, asked, compose
from tests.tools import find_tool
from vitascope.cli.main import build_parser

ROOT = Path(__file__).parents[1]
SERVED = {"cpu": "service", "gpu": "gpu", "distributed": "distributed"}
"""What answers on the port, by profile."""
ONCE = {"index", "backup", "prepare"}
INTERNAL = {"watch", "front", "cluster", "stores"}
MIB = 1024**2


@cache
def whole() -> dict[str, Any]:
    return compose(*PROFILES)


def services(*profiles: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = whole()["services"]
    return {name: each for name, each in found.items() if not profiles or set(each["profiles"]) & set(profiles)}


NAMES = sorted(
    name for name in yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
)  # known without docker-compose, so that each test has its name


def test_each_profile_starts_what_it_is_for_and_nothing_else() -> None:
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


def test_the_service_starts_by_its_name_alone_and_a_profile_may_be_kept_in_the_environment() -> None:
    named = asked("config", "--format", "json", "service", VITASCOPE_ADMIN_KEY=ADMIN)
    kept = asked("config", "--services", VITASCOPE_ADMIN_KEY=ADMIN, COMPOSE_PROFILES="cpu,observability")
    assert set(json.loads(named.stdout)["services"]) == {"service"}
    assert set(kept.stdout.split()) == {"service", "prometheus", "grafana"}


def test_there_is_no_key_but_the_users_own() -> None:
    refused = asked("config")
    assert refused.returncode != 0
    assert "VITASCOPE_ADMIN_KEY" in refused.stderr
    for name in SERVED.values():
        given = services()[name]["environment"]
        assert given["VITASCOPE_ADMIN_KEY"] == ADMIN
        assert "VITASCOPE_ALLOW_UNAUTHENTICATED" not in given


def test_the_stores_have_the_users_password_and_none_without() -> None:
    """Whoever does not use them needs no password; whoever starts them without is told so by `prepare`, the first."""
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
    """What a service waits for, in the end."""
    direct = set(services()[name].get("depends_on", {}))
    return direct.union(*(reached(each) for each in direct))


@pytest.mark.parametrize("name", NAMES)
def test_a_container_has_no_rights_and_limits_to_what_it_takes(name: str) -> None:
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
def test_a_container_writes_to_volumes_and_memory_alone(name: str) -> None:
    service = services()[name]
    for mount in service["volumes"]:
        assert mount["type"] in ("volume", "bind")
        assert mount["type"] == "volume" or mount["read_only"]
        assert "docker.sock" not in mount["source"]
    assert all("size=" in each for each in service["tmpfs"])


@pytest.mark.parametrize("name", NAMES)
def test_a_container_is_watched_and_ends_in_order(name: str) -> None:
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
def test_an_image_is_ours_or_pinned(name: str) -> None:
    service = services()[name]
    repository, _, tag = service["image"].rpartition(":")
    if repository == "vitascope":
        extras = {"cpu": "cpu", "gpu": "gpu", "distributed": "cpu,milvus,ray"}
        assert service["build"]["args"] == {"EXTRA": extras[tag]}
    else:
        assert "build" not in service
        assert re.fullmatch(r"v?\d+\.\d+\.\d+|RELEASE\.\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ", tag), service["image"]


def test_only_what_is_for_people_has_a_port_and_only_on_this_machine() -> None:
    published = {name: each["ports"] for name, each in services().items() if each.get("ports")}
    assert set(published) == {*SERVED.values(), "proxy", "grafana"}
    for name, ports in published.items():
        assert [port["host_ip"] for port in ports] == ["127.0.0.1"], name
        assert "default" in services()[name]["networks"]


def test_stores_and_cluster_have_no_way_out_and_nobody_else_has_one_in() -> None:
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


def test_prometheus_finds_whichever_service_runs() -> None:
    scraped = yaml.safe_load((ROOT / "observability" / "prometheus.yml").read_text())["scrape_configs"]
    (target,) = scraped[0]["static_configs"][0]["targets"]
    for name in SERVED.values():
        service = services()[name]
        host, _, port = target.partition(":")
        assert host in service["networks"]["watch"]["aliases"]
        assert host in service["environment"]["VITASCOPE_ALLOWED_HOSTS"]
        assert service["environment"]["VITASCOPE_PUBLIC_METRICS"] == "true"
        assert [str(each["target"]) for each in service["ports"]] == [port]


def test_the_proxy_reaches_whichever_service_runs_and_is_trusted_by_it() -> None:
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


def test_the_limits_hold_what_the_decoding_processes_may_take() -> None:
    """One GiB each, and one for the rest."""
    for name in SERVED.values():
        service = services()[name]
        processes = int(service["environment"]["VITASCOPE_DECODE_PROCESSES"])
        assert int(service["deploy"]["resources"]["limits"]["memory"]) >= (processes + 1) * 1024 * MIB
        assert float(service["deploy"]["resources"]["limits"]["cpus"]) >= int(
            service["environment"]["VITASCOPE_THREADS"]
        )


def test_the_gpu_goes_to_the_service_that_is_for_it() -> None:
    reserved = {
        name: [device["capabilities"] for device in devices]
        for name, each in services().items()
        if (devices := each["deploy"]["resources"].get("reservations", {}).get("devices"))
    }
    assert reserved == {"gpu": [["gpu"]]}


def test_a_volume_of_somebody_elses_image_gets_its_owner_from_ours() -> None:
    """`prepare` mounts each where the Dockerfile made a folder for the user that writes to it."""
    made = re.findall(r"install -d (?:-m 700 )?-o (\d+) -g (\d+) ([/\w ]+\w)", (ROOT / "Dockerfile").read_text())
    owner = {folder: f"{user}:{group}" for user, group, folders in made for folder in folders.split()}
    prepared = {mount["source"]: owner[mount["target"]] for mount in services()["prepare"]["volumes"]}
    assert prepared == {name: services()[name]["user"] for name in ("etcd", "minio", "milvus")}
    for name in (*SERVED.values(), "index", "backup", "ray-head"):
        for mount in services()[name]["volumes"]:
            if mount["type"] == "volume":
                assert owner[mount["target"]] == services()[name]["user"]


def test_backups_go_where_the_user_says() -> None:
    settings = {"VITASCOPE_BACKUPS": "/mnt/backups", "VITASCOPE_BACKUPS_KEPT": "30", "VITASCOPE_PORT": "9000"}
    chosen = compose("backup", "cpu", settings=settings)["services"]
    assert chosen["backup"]["command"] == ["backup", "/backups", "--keep=30"]
    places = {mount["target"]: (mount["type"], mount["source"]) for mount in chosen["backup"]["volumes"]}
    assert places == {"/data": ("volume", "data"), "/backups": ("bind", "/mnt/backups")}
    assert chosen["service"]["ports"][0]["published"] == "9000"


def test_vitascope_takes_the_commands_that_containers_and_the_page_about_them_give_it() -> None:
    """Parsed by the command itself, not run."""
    page = (ROOT / "docs" / "deploy.md").read_text()
    given = [each["command"] for name, each in services().items() if name in ("index", "backup")]
    given += [line.split() for line in re.findall(r"^\$ docker compose run --rm backup (\w.+)$", page, re.MULTILINE)]
    given += [line.split() for line in re.findall(r"exec [\w-]+ vitascope ([^\"#\n]+?)(?: +#|$)", page, re.MULTILINE)]
    assert len(given) >= 5
    for words in given:
        parser, _ = build_parser(words[0])
        assert parser.parse_args(words).command == words[0]


def test_the_settings_that_the_page_adds_are_taken(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "deploy.md").read_text(), re.DOTALL)
    override = tmp_path / "docker-compose.override.yml"
    override.write_text(block)
    files = ("--file", str(ROOT / "docker-compose.yml"), "--file", str(override))
    done = asked(*files, "config", "--format", "json", "service", VITASCOPE_ADMIN_KEY=ADMIN)
    assert done.returncode == 0, done.stderr
    service = json.loads(done.stdout)["services"]["service"]
    added = {name: value for name, value in service["environment"].items() if name in block}
    assert set(added) == {"VITASCOPE_MAX_UPLOAD_BYTES", "VITASCOPE_BUNDLE"}
    assert service["environment"]["VITASCOPE_ADMIN_KEY"] == ADMIN
    assert [mount["target"] for mount in service["volumes"]] == ["/data", "/videos", "/bundles"]


def test_the_linter_finds_nothing() -> None:
    """compose-lint, with what .compose-lint.yml says is meant."""
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
