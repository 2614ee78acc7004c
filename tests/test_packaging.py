"""Packaging: declared and pinned dependencies, contents of wheel and sdist, imports between packages."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.tools import find_tool
from vitascope.cli import options
from vitascope.cli.options import default_bundle

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
PACKAGES = ("vitascope", "index", "service", "training", "model_export")
SERVING = ("vitascope", "index", "service")
DISTRIBUTION_OF = {
    "PIL": "pillow",
    "faiss": "faiss-cpu",
    "aiohttp": "fsspec",  # which names it
    "multipart": "python-multipart",
    "starlette": "fastapi",
    "pydantic_core": "pydantic",
    "grpc": "pymilvus",
    "annotated_types": "pydantic",
    "opentelemetry": "opentelemetry-api",
    "mcp_types": "mcp",
    "pythonjsonlogger": "python-json-logger",
    "sherpa_onnx": "sherpa-onnx",
}


def names(requirements: list[str]) -> set[str]:
    matches = (re.match(r"[A-Za-z0-9._-]+", requirement) for requirement in requirements)
    return {match.group().lower() for match in matches if match}


def third_party_imports(package: str) -> set[str]:
    """Return the third-party packages that a package imports, also inside functions."""
    imported: set[str] = set()
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                imported.add(node.module.split(".")[0])
    return {name for name in imported if name not in sys.stdlib_module_names and name not in (*PACKAGES, "_typeshed")}


@pytest.mark.parametrize("package", SERVING)
def test_serving_packages_import_declared_packages(package: str) -> None:
    """The image has `.[cpu,language]` only; packages of other extras are imported where they are used."""
    own = (
        *("tensorrt", "heic", "parquet", "remote", "bench", "ray", "milvus", "mcp", "langchain", "language"),
        *("speech", "ocr"),
    )
    optional = names([requirement for extra in own for requirement in EXTRAS[extra]])
    installed = names(PROJECT["dependencies"]) | names(EXTRAS["cpu"]) | optional
    needed = {DISTRIBUTION_OF.get(name, name.replace("_", "-")) for name in third_party_imports(package)}
    assert needed - installed == set()


@pytest.mark.parametrize("package", ["training", "model_export"])
def test_training_packages_import_declared_packages(package: str) -> None:
    extras = EXTRAS["cpu"] + EXTRAS["train"] + EXTRAS["pretrained"] + EXTRAS["parquet"]
    needed = {DISTRIBUTION_OF.get(name, name.replace("_", "-")) for name in third_party_imports(package)}
    assert needed - names(PROJECT["dependencies"] + extras) == set()


def test_the_serving_image_installs_no_training_package() -> None:
    assert '".[${EXTRA},language]"' in (ROOT / "Dockerfile").read_text()
    image = PROJECT["dependencies"] + EXTRAS["cpu"] + EXTRAS["language"]
    assert names(image) & names(EXTRAS["train"]) == set()


def test_every_declared_package_is_pinned_exactly_or_is_torch() -> None:
    """`make demo` installs the tested versions."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {m.group(1).lower(): m.group(2) for line in lines if (m := re.match(r"([A-Za-z0-9._-]+)([=<>].*)", line))}
    declared = names([*PROJECT["dependencies"], *(r for extra in EXTRAS.values() for r in extra)])
    unpinned = {name for name in declared - {"tensorrt"} if not pins.get(name, "").startswith("==")}
    assert unpinned == {"torch", "torchvision"}
    assert pins["torch"] == ">=2.9,<3"


def test_pins_name_no_local_build_and_no_url() -> None:
    text = (ROOT / "constraints.txt").read_text()
    assert "+cpu" not in text
    assert "://" not in text
    assert "@ " not in text


def test_cpu_and_gpu_builds_share_no_package() -> None:
    """They contain the same modules, so other extras must not require them."""
    builds = {"onnxruntime", "onnxruntime-gpu", "faiss-cpu", "faiss-gpu"}
    assert names(EXTRAS["cpu"]) & names(EXTRAS["gpu"]) == set()
    assert names(EXTRAS["cpu"]) | names(EXTRAS["gpu"]) == builds
    for extra in ("train", "pretrained", "dev", "tensorrt"):
        assert names(EXTRAS[extra]) & builds == set()


def test_every_package_is_part_of_the_wheel() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert sorted(wheel["packages"]) == sorted(PACKAGES)
    for package in PACKAGES:
        assert (ROOT / package / "__init__.py").is_file()


def test_the_wheel_carries_the_default_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    monkeypatch.delenv("VITASCOPE_BUNDLE", raising=False)
    assert default_bundle() == ROOT / "bundles" / "hd-vila-tiny"
    monkeypatch.setattr(options, "__file__", str(tmp_path / "vitascope" / "cli" / "options.py"))  # as installed
    ((_, target),) = wheel["force-include"].items()
    (tmp_path / target).mkdir(parents=True)
    assert default_bundle() == tmp_path / target


def test_the_changelog_has_the_version() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    assert re.fullmatch(rf"\[{re.escape(PROJECT['version'])}\] - \d{{4}}-\d\d-\d\d", headings[1])


def test_the_dockerfile_has_no_lint() -> None:
    done = subprocess.run([find_tool("hadolint"), "Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout + done.stderr == ""
    assert done.returncode == 0


def test_files_that_the_dockerfile_copies_are_in_the_build_context() -> None:
    """Only files that .dockerignore includes are in the build context."""
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copies = re.findall(r"^COPY (?!--from)(.+)$", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    sources = {source.split("/")[0] for line in copies for source in line.split()[:-1]}
    assert sources
    assert sources - let_in == set()


def test_make_does_not_install_twice(tmp_path: Path) -> None:
    """A newer stamp prevents `make demo` from installing again."""
    make = find_tool("make")
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    (tmp_path / ".venv" / ".runtime").touch()
    command = [make, "--question", "--directory", str(tmp_path), "env"]
    assert subprocess.run(command).returncode == 0
    (tmp_path / "constraints.txt").write_text("numpy==1\n")
    later = (tmp_path / ".venv" / ".runtime").stat().st_mtime + 1
    os.utime(tmp_path / "constraints.txt", (later, later))
    assert subprocess.run(command).returncode == 1


def test_make_names_the_missing_package_python3_venv(tmp_path: Path) -> None:
    """Debian's python3 without python3-venv."""
    python = tmp_path / "python3"
    python.write_text('#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; esac\necho Python 3.11.0\n')
    python.chmod(0o755)
    command = [find_tool("make"), "env", f"PYTHON={python}", f"VENV={tmp_path}/venv"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert "apt-get install python3-venv" in done.stderr
