"""The two clients."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vitascope.client.services import CLIENTS, Caller


@pytest.fixture(params=CLIENTS)
def call(request: pytest.FixtureRequest) -> Caller:
    return Caller(request.param)


@pytest.fixture
def film(tmp_path: Path) -> Path:
    path = tmp_path / "film.mp4"
    path.write_bytes(b"not really a video")
    return path
