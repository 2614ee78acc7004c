"""Links, anchors and pictures of the pages lead somewhere; modules, files and functions that they name exist."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, list_pages
from training.recipe import Recipe

PACKAGES = "vitascope|index|service|training|model_export|benchmarks|studies|tests|demo"
SYMBOL = re.compile(r"`((?:\w+/)+\w+\.py)::([\w.]+)`")
FILE = re.compile(rf"(?<![\w./$~-])((?:{PACKAGES})(?:/[\w-]+)*/\w+\.(?:py|js|toml|json))\b")
FOLDER = re.compile(rf"`((?:{PACKAGES})(?:/[\w-]+)*)/?`")
DOTTED = re.compile(rf"(?<![\w./-])((?:{PACKAGES})(?:\.\w+){{2,}})")
IMPORTED = re.compile(rf"(?:-m|import|from) ((?:{PACKAGES})(?:\.\w+)*)\b")


@cache
def defined_names(path: Path) -> set[str]:
    """Names of a module's functions, classes, methods, variables and imports."""
    names: set[str] = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            methods = (n for n in node.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
            names |= {f"{node.name}.{method.name}" for method in methods}
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def exists(dotted: str) -> bool:
    """Whether a dotted name is a package, a module, or a name in one."""
    parts = dotted.split(".")
    for count in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:count])
        rest = ".".join(parts[count:])
        for module in (path.with_suffix(".py"), path / "__init__.py"):
            if module.is_file():
                return not rest or rest in defined_names(module)
    return False


def missing_names(text: str) -> set[str]:
    """Names in the text of a page that do not exist."""
    missing = {name for name in FILE.findall(text) if not (ROOT / name).is_file()}
    missing |= {name for name in FOLDER.findall(text) if not (ROOT / name).is_dir()}
    missing |= {name for name in (*DOTTED.findall(text), *IMPORTED.findall(text)) if not exists(name)}
    for file, name in SYMBOL.findall(text):
        if (ROOT / file).is_file() and name not in defined_names(ROOT / file):
            missing.add(f"{file}::{name}")
    return missing


@pytest.mark.parametrize(
    "page", [page for page in list_pages() if page.name != "upgrading.md"], ids=lambda page: str(page.relative_to(ROOT))
)
def test_modules_files_and_functions_that_a_page_names_exist(page: Path) -> None:
    """upgrading.md names former modules."""
    assert missing_names(page.read_text("utf-8")) == set()


def test_parts_of_recipes_in_the_pages_are_valid() -> None:
    blocks = [
        tomllib.loads(block)
        for page in ("data.md", "systems.md")
        for block in re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / page).read_text("utf-8"), re.DOTALL)
    ]
    assert blocks
    for block in blocks:
        recipe = block if "stages" in block else {"stages": [{"name": "a", "steps": 1, "learning_rate": 1e-3, **block}]}
        Recipe.model_validate({"name": "a", "size": "tiny", **recipe})


def test_subpackages_in_the_table_of_packages_exist() -> None:
    section = (ROOT / "CONTRIBUTING.md").read_text("utf-8").split("## Packages")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([\w/]+?)/?` \| (.*?) \|", section, re.MULTILINE)
    entries = [ROOT / package / entry for package, contents in rows for entry in re.findall(r"`([\w.]+)`", contents)]
    assert len(entries) > 20
    assert [str(entry) for entry in entries if not entry.exists()] == []


def test_contributing_answers_where_things_are() -> None:
    section = (ROOT / "CONTRIBUTING.md").read_text("utf-8").split("## Where is ...?")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| Where ")]
    assert len(rows) >= 10
    assert [row for row in rows if not SYMBOL.search(row)] == []


TOP = ("README.md", "CONTRIBUTING.md", "SECURITY.md")


def built(folder: Path) -> subprocess.CompletedProcess[str]:
    """The site of ``folder``, which has ``docs`` and ``mkdocs.yml``."""
    command = [str(Path(sys.executable).parent / "zensical"), "build", "--strict", "--config-file", "mkdocs.yml"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_site_is_built_and_a_broken_link_fails(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    whole = built(tmp_path)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    start = (tmp_path / ".site" / "index.html").read_text()
    assert "a red square moves left" in start
    assert re.findall(r'(?:src|<link[^>]* href)="(https?://[^"]*)"', start) == []  # nothing from another host

    usage = tmp_path / "docs" / "usage.md"
    usage.write_text(usage.read_text() + "\n[nowhere](no-such-page.md)\n")
    assert built(tmp_path).returncode != 0


def test_every_page_is_in_the_navigation() -> None:
    named = set(re.findall(r"([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    assert named == {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}


def test_links_of_the_pages_outside_of_docs_lead_somewhere() -> None:
    """To a file, and to a heading in it where they name one; within docs the site's own build sees to it."""
    for page in TOP:
        for link, heading in re.findall(r"\]\((?!https?:)([^)#]+)(?:#([^)]+))?\)", (ROOT / page).read_text()):
            assert (ROOT / link).exists(), f"{page}: {link}"
            assert not heading or heading in anchors((ROOT / link).read_text()), f"{page}: {link}#{heading}"


def anchors(page: str) -> set[str]:
    """Return the anchors of the headings of ``page``."""
    titles = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def test_pictures_that_the_pages_show_are_there() -> None:
    """The site is built without them and says nothing."""
    pages = [*(ROOT / page for page in TOP), *(ROOT / "docs").rglob("*.md")]
    shown = [(page, picture) for page in pages for picture in re.findall(r"!\[[^\]]*\]\(([^)\s]+)", page.read_text())]
    assert shown
    assert [f"{page}: {picture}" for page, picture in shown if not (page.parent / picture).is_file()] == []
