"""The page for people, as far as it can be judged without a browser."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from urllib.parse import urljoin

import httpx

from service.page import WEB_FILES, PageFiles
from tests.service.running import Running

PARTS = sorted(WEB_FILES.iterdir())
CODE = "".join(path.read_text("utf-8") for path in PARTS if path.suffix == ".js")
PAGE = (WEB_FILES / "index.html").read_text("utf-8")
LATER = set(re.findall(r'import\("\./([^"]+)"\)', CODE))
"""Code that is fetched when somebody looks at what it shows."""


def together(names: set[str]) -> set[str]:
    """Code, and all that it imports at once."""
    found = {name for each in names for name in re.findall(r'from "\./([^"]+)"', (WEB_FILES / each).read_text("utf-8"))}
    return names if found <= names else together(names | found)


def loaded(running: Running) -> dict[str, httpx.Response]:
    """The page and all that a browser loads for it, also later, by address: imports are relative to who imports."""
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


def test_the_page_and_all_it_names_is_served(running: Running) -> None:
    answers = loaded(running)
    assert answers.pop("/").headers["content-type"].startswith("text/html")
    assert sorted(Path(address).name for address in answers) == [p.name for p in PARTS if p.name != "index.html"]
    kinds = {".js": "javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    for address, part in answers.items():
        assert part.status_code == 200
        assert kinds[Path(address).suffix] in part.headers["content-type"]
        assert part.content == (WEB_FILES / Path(address).name).read_bytes()


def test_a_browser_asks_anew_for_the_page_and_never_again_for_what_the_page_names(running: Running) -> None:
    answers = loaded(running)
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


def test_another_content_of_any_file_has_other_addresses(tmp_path: Path) -> None:
    before = PageFiles(WEB_FILES)
    for changed in ("dom.js", "index.html"):
        copy = tmp_path / changed
        shutil.copytree(WEB_FILES, copy)
        assert PageFiles(copy).version == before.version
        (copy / changed).write_bytes((copy / changed).read_bytes() + b"\n")
        assert PageFiles(copy).version != before.version


def test_the_page_is_fetched_packed_by_who_takes_it_so_and_only_once(running: Running) -> None:
    addresses = loaded(running)
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


def test_the_page_is_small_and_asks_no_other_host() -> None:
    at_start = together({"app.js"})
    begun = [path for path in PARTS if path.suffix != ".js" or path.name in at_start]
    assert sum(path.stat().st_size for path in begun) < 150_000  # not packed, comments and all
    assert not LATER & at_start
    for path in PARTS:
        addresses = set(re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", path.read_text("utf-8")))
        assert addresses <= {"http://www.w3.org"}, path  # the name of SVG, which nobody asks


def test_the_page_needs_nothing_that_its_content_policy_forbids() -> None:
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=|javascript:", PAGE)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|\beval\(|new Function", CODE)


def test_code_and_page_speak_of_the_same_elements() -> None:
    there = set(re.findall(r'\bid="([^"]+)"', PAGE))
    used = set(re.findall(r'\$\("([^"]+)"\)', CODE))
    assert used <= there
    for target in re.findall(r'(?:for|aria-labelledby)="([^"]+)"|href="#([^"]+)"', PAGE):
        assert set(filter(None, target)) <= there


def test_every_control_has_a_name_for_those_who_cannot_see_it() -> None:
    for field in re.findall(r"<(?:input|textarea|select)[^>]*>", PAGE):
        name = re.search(r'id="([^"]+)"', field)
        labelled = name is not None and f'for="{name[1]}"' in PAGE
        wrapped = re.search(rf"<label[^>]*>[^<]*{re.escape(field)}", PAGE)
        assert labelled or wrapped or "hidden" in field, field
    for attributes, text in re.findall(r"<button([^>]*)>([^<]*)</button>", PAGE):
        assert re.search(r"\w", text) or "aria-label" in attributes or "hidden" in attributes
