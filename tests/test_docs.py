"""The documentation as a site: all pages are in it, and no link leads nowhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
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
    """What headings of ``page`` are linked by."""
    titles = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def test_pictures_that_the_pages_show_are_there() -> None:
    """The site is built without them and says nothing."""
    pages = [*(ROOT / page for page in TOP), *(ROOT / "docs").rglob("*.md")]
    shown = [(page, picture) for page in pages for picture in re.findall(r"!\[[^\]]*\]\(([^)\s]+)", page.read_text())]
    assert shown
    assert [f"{page}: {picture}" for page, picture in shown if not (page.parent / picture).is_file()] == []
