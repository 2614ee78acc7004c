"""A service of one model, to which tests add others and remove them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.conftest import settings_for
from tests.service.models.asking import added
from tests.service.running import Running, serving
from tests.small_bundle import make_small_bundle


@pytest.fixture(scope="package")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that bundles may be added from: ``second`` and ``third`` differ from the default and each other."""
    folder = tmp_path_factory.mktemp("bundles")
    make_small_bundle(folder / "second", seed=7, width=24, version="2")
    make_small_bundle(folder / "third", seed=8, width=32, version="3")
    return folder


@pytest.fixture(scope="package")
def several(small_bundle: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service of one model, to which tests add others and remove them."""
    settings = settings_for(small_bundle, tmp_path_factory.mktemp("data"), bundles_root=root, max_models=3)
    with serving(settings) as running:
        yield running


@pytest.fixture
def second(several: Running) -> Iterator[str]:
    """The fingerprint of ``second``, which serves during the test."""
    fingerprint = added(several.client, "second")
    yield fingerprint
    several.client.delete(f"/v1/models/{fingerprint}", params={"force": True})
