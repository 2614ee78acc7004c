"""A bundle that each test may change."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.small_bundle import make_small_bundle


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_small_bundle(tmp_path / "bundle", external_data=True)
