"""The Dockerfile is read as Docker reads it, so that `make image-check` takes its steps and no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.image.container import suite_of
from tests.image.dockerfile import BASE_PATH, Stage, stages

ROOT = Path(__file__).parents[2]


def test_ours_is_read_to_the_last_step() -> None:
    text = (ROOT / "Dockerfile").read_text()
    build, final = stages(text, {"EXTRA": "cpu,milvus,ray"})
    steps = [*build.steps, *final.steps]
    assert len(steps) == sum(line.startswith(("RUN ", "COPY ")) for line in text.splitlines())
    installs = build.steps[-1]
    assert installs.words[:2] == ("/bin/sh", "-c")
    assert '".[${EXTRA}]"' in installs.words[2]
    assert "\\" not in installs.words[2]
    assert (installs.environment["EXTRA"], installs.directory) == ("cpu,milvus,ray", "/src")
    assert final.steps[1].from_stage == build.name == "build"
    assert final.environment["PATH"] == f"/opt/venv/bin:{BASE_PATH}"
    assert "EXTRA" not in final.environment
    assert (final.user, final.directory, final.entrypoint, final.command[0]) == (
        "10001:10001",
        "/data",
        ["vitascope"],
        "serve",
    )
    assert final.health[0] == "python"
    assert final.health_options == {"interval": "10s", "timeout": "3s", "start-period": "60s", "retries": "3"}
    assert suite_of(final.base) == "bookworm"


def test_a_step_is_taken_as_what_came_before_it_says() -> None:
    text = "FROM python:3.12-slim-trixie\nRUN one\nUSER 5:6\nWORKDIR /there\nENV A=1 B=$A/2\n# no step\nCOPY a b/ c/\n"
    (stage,) = stages(text, {})
    assert [(step.kind, step.user, step.directory) for step in stage.steps] == [
        ("RUN", "0:0", "/"),
        ("COPY", "5:6", "/there"),
    ]
    assert stage.steps[1].words == ("a", "b/", "c/")
    assert stage.environment == {"PATH": BASE_PATH, "A": "1", "B": "/2"}  # one line sees what was before it


@pytest.mark.parametrize(
    "text",
    [
        "RUN early",
        "FROM x\nADD a b",
        'FROM x\nSHELL ["bash"]',
        "FROM x\nRUN --mount=type=cache,target=/c pip",
        'FROM x\nRUN ["true"]',
        "FROM x\nCOPY --chown=1:1 a b",
        "FROM x\nCMD vitascope serve",
    ],
)
def test_what_would_be_taken_wrongly_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|known here"):
        stages(text, {})


def test_a_build_argument_that_is_declared_nowhere_is_refused() -> None:
    with pytest.raises(ValueError, match="EXTRAS"):
        stages("FROM x\nARG EXTRA=cpu\n", {"EXTRAS": "gpu"})
    (stage,) = stages("FROM x\nARG EXTRA=cpu\nRUN one\n", {})
    assert isinstance(stage, Stage)
    assert stage.steps[0].environment["EXTRA"] == "cpu"


def test_only_pythons_slim_images_have_a_debian_root_that_stands_in_for_them() -> None:
    assert suite_of("python:3.13-slim-trixie") == "trixie"
    for other in ("python:3.11", "debian:bookworm", "python:3.11-alpine3.20"):
        with pytest.raises(ValueError, match="was expected"):
            suite_of(other)
