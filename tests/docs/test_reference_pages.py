"""docs/settings.md and docs/metrics.md are complete and equal to the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from service.metrics import METRICS
from service.settings import RENAMED, Settings
from tests.docs.pages import ROOT
from tests.docs.reference_pages import OTHER_VARIABLES, PAGES, UPDATE

FOLDERS = ("service", "vitascope", "index", "docs")
FILES = ("Dockerfile", "SECURITY.md", "README.md")
OTHERS = {ROOT / "docs" / "upgrading.md", ROOT / "docs" / "deploy.md", ROOT / "docs" / "install.md"}
"""Pages that name former settings, and variables of docker-compose.yml."""


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_the_page_is_equal_to_the_code(path: Path) -> None:
    assert path.read_text("utf-8") == PAGES[path](), f"if the change is meant: {UPDATE}"


def test_every_setting_and_metric_is_described() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []
    assert [spec.name for spec in METRICS if not spec.description] == []


def test_every_variable_that_is_named_anywhere_exists() -> None:
    known = {f"VITASCOPE_{name.upper()}" for name in Settings.model_fields} | {name for name, _ in OTHER_VARIABLES}
    texts = [ROOT / name for name in FILES]
    for folder in FOLDERS:
        texts += [path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".md", ".yaml", ".yml", ".js")]
    unknown = {
        (str(path.relative_to(ROOT)), name)
        for path in texts
        if path not in OTHERS
        for name in re.findall(r"VITASCOPE_[A-Z]+(?:_[A-Z]+)*\b(?!_)", path.read_text("utf-8"))
        if name not in known
    }
    assert unknown == set()


def test_every_metric_that_is_named_in_the_docs_exists() -> None:
    known = {spec.name for spec in METRICS}
    for page in ("operating.md", "jobs.md", "models.md", "deploy.md", "gpu.md"):
        for name in re.findall(r"`(vitascope_[a-z_]+)", (ROOT / "docs" / page).read_text("utf-8")):
            assert name.removesuffix("_total") in known, (page, name)


def test_renamed_settings_name_a_setting() -> None:
    assert set(RENAMED.values()) <= set(Settings.model_fields)
    assert not set(RENAMED) & set(Settings.model_fields)
