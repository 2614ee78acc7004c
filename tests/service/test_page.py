"""The web page's files: caching, compression, size, content security policy."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from urllib.parse import urljoin

import httpx

from service.page import WEB_FILES, PageFiles
from tests.service.running import Running

FILES = sorted(WEB_FILES.iterdir())
CODE = "".join(path.read_text("utf-8") for path in FILES if path.suffix == ".js")
PAGE = (WEB_FILES / "index.html").read_text("utf-8")
LAZY_MODULES = set(re.findall(r'import\("\./([^"]+)"\)', CODE))
"""Modules that are loaded on demand."""


def with_imports(names: set[str]) -> set[str]:
    """Return modules and all that they import statically."""
    found = {name for each in names for name in re.findall(r'from "\./([^"]+)"', (WEB_FILES / each).read_text("utf-8"))}
    return names if found <= names else with_imports(names | found)


def fetch_all(running: Running) -> dict[str, httpx.Response]:
    """Return the page and all files that a browser loads for it, also on demand, by address."""
    answers = {"/": running.client.get("/")}
    addresses = re.findall(r'(?:src|href)="(/static/[^"]+)"', answers["/"].text)
    while addresses:
        address = addresses.pop()
        if address not in answers:
            answers[address] = running.client.get(address)
            if address.endswith(".js"):
                imported = re.findall(r'(?:from |import\()"(\./[^"]+)"', answers[address].text)
                addresses += [urljoin(address, each) for each in imported]
    return answers


def test_the_page_and_all_its_files_are_served(running: Running) -> None:
    answers = fetch_all(running)
    assert answers.pop("/").headers["content-type"].startswith("text/html")
    assert sorted(Path(address).name for address in answers) == [p.name for p in FILES if p.name != "index.html"]
    kinds = {".js": "javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    for address, part in answers.items():
        assert part.status_code == 200
        assert kinds[Path(address).suffix] in part.headers["content-type"]
        assert part.content == (WEB_FILES / Path(address).name).read_bytes()


def test_the_page_is_revalidated_and_its_files_are_immutable(running: Running) -> None:
    answers = fetch_all(running)
    assert answers.pop("/").headers["cache-control"] == "no-cache"
    for answer in answers.values():
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    [version] = {Path(address).parent.name for address in answers}
    for other in ("/static/app.js", f"/static/{version[::-1]}/app.js"):
        answer = running.client.get(other)
        assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-cache")
        again = running.client.get(other, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.headers["cache-control"]) == (304, "no-cache")
        assert running.client.head(other).headers["content-length"] == answer.headers["content-length"]
    for nothing in ("/static/", "/static/none.js", f"/static/{version}/none.js", f"/static/{version}/../page.py"):
        assert running.client.get(nothing).status_code == 404


def test_a_change_of_any_file_changes_the_version(tmp_path: Path) -> None:
    before = PageFiles(WEB_FILES)
    for changed in ("dom.js", "index.html"):
        copy = tmp_path / changed
        shutil.copytree(WEB_FILES, copy)
        assert PageFiles(copy).version == before.version
        (copy / changed).write_bytes((copy / changed).read_bytes() + b"\n")
        assert PageFiles(copy).version != before.version


def test_files_are_compressed_if_accepted_and_revalidated_by_etag(running: Running) -> None:
    addresses = fetch_all(running)
    fetched = 0
    for address in addresses:
        with running.client.stream("GET", address, headers={"Accept-Encoding": "gzip"}) as packed:
            fetched += sum(map(len, packed.iter_raw()))
        assert packed.headers["content-encoding"] == "gzip"
        assert packed.headers["vary"] == "Accept-Encoding"
        plain = running.client.get(address, headers={"Accept-Encoding": "br, gzip;q=0"})
        assert "content-encoding" not in plain.headers
        assert running.client.get(address).content == plain.content
        for known in (packed, plain):
            again = running.client.get(address, headers={"If-None-Match": known.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
    assert fetched < 75_000


def test_the_page_is_small_and_requests_no_other_host() -> None:
    at_start = with_imports({"app.js"})
    initial = [path for path in FILES if path.suffix != ".js" or path.name in at_start]
    assert sum(path.stat().st_size for path in initial) < 150_000  # uncompressed, with comments
    assert not LAZY_MODULES & at_start
    for path in FILES:
        addresses = set(re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", path.read_text("utf-8")))
        assert addresses <= {"http://www.w3.org"}, path  # the XML namespace of SVG


def test_the_page_complies_with_its_content_security_policy() -> None:
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=|javascript:", PAGE)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|\beval\(|new Function", CODE)


def test_scripts_and_labels_refer_to_existing_elements() -> None:
    there = set(re.findall(r'\bid="([^"]+)"', PAGE))
    used = set(re.findall(r'\$\("([^"]+)"\)', CODE))
    assert used <= there
    for target in re.findall(r'(?:for|aria-labelledby)="([^"]+)"|href="#([^"]+)"', PAGE):
        assert set(filter(None, target)) <= there


def test_every_control_has_an_accessible_name() -> None:
    for field in re.findall(r"<(?:input|textarea|select)[^>]*>", PAGE):
        name = re.search(r'id="([^"]+)"', field)
        labelled = name is not None and f'for="{name[1]}"' in PAGE
        wrapped = re.search(rf"<label[^>]*>[^<]*{re.escape(field)}", PAGE)
        assert labelled or wrapped or "hidden" in field, field
    for attributes, text in re.findall(r"<button([^>]*)>([^<]*)</button>", PAGE):
        assert re.search(r"\w", text) or "aria-label" in attributes or "hidden" in attributes
