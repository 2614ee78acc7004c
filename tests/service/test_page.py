"""The page for people, as far as it can be judged without a browser."""

from __future__ import annotations

import re
from pathlib import Path

from service.page import STATIC
from tests.service.running import Running

PARTS = sorted(STATIC.iterdir())
CODE = "".join(path.read_text("utf-8") for path in PARTS if path.suffix == ".js")
PAGE = (STATIC / "index.html").read_text("utf-8")
LATER = set(re.findall(r'import\("\./([^"]+)"\)', CODE))
"""Code that is fetched when somebody looks at what it shows."""


def together(names: set[str]) -> set[str]:
    """Code, and all that it imports at once."""
    found = {name for each in names for name in re.findall(r'from "\./([^"]+)"', (STATIC / each).read_text("utf-8"))}
    return names if found <= names else together(names | found)


def test_the_page_and_all_it_names_is_served(running: Running) -> None:
    answer = running.client.get("/")
    assert answer.headers["content-type"].startswith("text/html")
    named = set(re.findall(r'(?:src|href)="(/static/[^"]+)"', answer.text))
    imported = {f"/static/{name}" for name in {*re.findall(r'from "\./([^"]+)"', CODE), *LATER}}
    assert {path.name for path in PARTS} - {"index.html"} == {Path(name).name for name in named | imported}
    kinds = {".js": "javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    for name in named | imported:
        part = running.client.get(name)
        assert part.status_code == 200
        assert kinds[Path(name).suffix] in part.headers["content-type"]


def test_the_page_is_fetched_packed_by_who_takes_it_so_and_only_once(running: Running) -> None:
    addresses = ["/", *(f"/static/{path.name}" for path in PARTS if path.name != "index.html")]
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
