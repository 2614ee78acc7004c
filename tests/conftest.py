"""Fixtures of all tests."""

from __future__ import annotations

import gc
import os
import random
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from tests.chaos import is_chaos
from tests.small_bundle import make_small_bundle
from vitascope.engines.gpu import gpu_unavailable_reason
from vitascope.model import Model

# No deadline: times depend on the machine. Every run has the same examples; only `make chaos` draws new ones.
settings.register_profile(
    "vitascope", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=not is_chaos()
)
settings.load_profile("vitascope")


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    """Exclude imported modules and collected tests from garbage collections, which they make slow."""
    gc.disable()
    try:
        if not session.config.option.file_or_dir:
            _import_a_share_first(session)
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def _import_a_share_first(session: pytest.Session) -> None:
    """Begin each worker's imports at another test, so that workers do not all compile the same modules."""
    worker = getattr(session.config, "workerinput", None)
    if worker is None:
        return
    tests = sorted(Path(__file__).parent.rglob("test_*.py"))
    number, count = int(worker["workerid"].removeprefix("gw")), worker["workercount"]
    for test in tests[number * len(tests) // count : (number + 1) * len(tests) // count]:
        with suppress(Exception):  # reported by the collection
            import_module(".".join(test.relative_to(session.config.rootpath).with_suffix("").parts))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests that only `make chaos` and `make docker-check` run, and begin with those that export models.

    Their fixtures take longest: at the end of a run, one worker would be left alone with them.
    """
    items.sort(key=lambda item: "model_export" not in item.path.parts)
    for marker, is_enabled in {"chaos": is_chaos(), "docker": os.environ.get("VITASCOPE_DOCKER")}.items():
        if not is_enabled:
            config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker(marker)])
            items[:] = [item for item in items if not item.get_closest_marker(marker)]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if not is_chaos():
        seed_generators()
    if item.get_closest_marker("gpu") is not None and (why := gpu_unavailable_reason()) is not None:
        pytest.skip(f"needs a GPU: {why}")


def seed_generators() -> None:
    """Make random numbers without a seed independent of earlier tests."""
    random.seed(0)
    np.random.seed(0)
    if torch := sys.modules.get("torch"):  # only if a test imported it
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundle that recognizes colours; read-only."""
    return make_small_bundle(tmp_path_factory.mktemp("bundle") / "small-colours")


@pytest.fixture(scope="session")
def small_model(small_bundle: Path) -> Model:
    return Model.open(small_bundle, threads=1, device="cpu")
