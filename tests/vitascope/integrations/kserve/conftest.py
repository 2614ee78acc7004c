"""The small bundle as a model repository, and servers that have it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from model_export.targets.triton import TritonOptions, write_repository
from tests.vitascope.integrations.kserve.protocol_server import serving
from tests.waiting import PATIENCE
from vitascope.bundle.bundle import Bundle

MAX_BATCH = 4
"""Batch limit of models with Triton's dialect: less than the tests send at once."""


@dataclass(frozen=True)
class Place:
    """A server, and the bundle whose graphs it has."""

    engine: str
    bundle: Path


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is in this process, which may pause."""
    monkeypatch.setattr("vitascope.integrations.kserve.server.READY_SECONDS", PATIENCE)


@pytest.fixture(scope="session")
def repository(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small bundle's models; treat it as read-only."""
    out = tmp_path_factory.mktemp("repository") / "models"
    write_repository(Bundle.open(small_bundle), out, TritonOptions(max_batch=MAX_BATCH, device="cpu"))
    return out


@pytest.fixture(scope="module", params=[os.environ["KSERVE"]] if "KSERVE" in os.environ else ["triton", "plain"])
def place(request: pytest.FixtureRequest, repository: Path, small_bundle: Path) -> Iterator[Place]:
    """The two dialects of the small server; or the server at the URL that KSERVE names, with the default bundle."""
    if "KSERVE" in os.environ:
        from vitascope.cli.options import default_bundle

        yield Place(f"kserve:{request.param}", default_bundle())
        return
    with serving(repository, plain=request.param == "plain") as server:
        yield Place(f"kserve:{server.url}", small_bundle)
