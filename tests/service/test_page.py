"""The web page's files: caching, compression, size, content security policy."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urljoin

import httpx

from service.page import WEB_FILES
from tests.service.running import Running

FILES = sorted(WEB_FILES.iterdir())
CODE = "".join(path.read_text("utf-8") for path in FILES if path.suffix == ".js")
PAGE = (WEB_FILES / "index.html").read_text("utf-8")
LAZY_MODULES = set(re.findall(r'import\("\./([^"]+)"\)', CODE))
"""Modules that are loaded on demand."""


def with_imports(names: set[str]) -> set[str]:
    """Return modules and all that they import statically."""
    imported = {
        name for each in names for name in re.findall(r'from "\./([^"]+)"', (WEB_FILES / each).read_text("utf-8"))
    }
    return names if imported <= names else with_imports(names | imported)


def fetch_all(running: Running) -> dict[str, httpx.Response]:
    """Return the page and all files that a browser loads for it, also on demand, by url."""
    responses = {"/": running.client.get("/")}
    urls = re.findall(r'(?:src|href)="(/static/[^"]+)"', responses["/"].text)
    while urls:
        url = urls.pop()
        if url not in responses:
            responses[url] = running.client.get(url)
            if url.endswith(".js"):
                imported = re.findall(r'(?:from |import\()"(\./[^"]+)"', responses[url].text)
                urls += [urljoin(url, each) for each in imported]
    return responses


def test_the_page_and_all_its_files_are_served(running: Running) -> None:
    responses = fetch_all(running)
    assert responses.pop("/").headers["content-type"].startswith("text/html")
    assert sorted(Path(url).name for url in responses) == [p.name for p in FILES if p.name != "index.html"]
    kinds = {".js": "javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    for url, part in responses.items():
        assert part.status_code == 200
        assert kinds[Path(url).suffix] in part.headers["content-type"]
        assert part.content == (WEB_FILES / Path(url).name).read_bytes()


def test_the_page_is_revalidated_and_its_files_are_immutable(running: Running) -> None:
    responses = fetch_all(running)
    assert responses.pop("/").headers["cache-control"] == "no-cache"
    for response in responses.values():
        assert response.headers["cache-control"] == "public, max-age=31536000, immutable"
    [version] = {Path(url).parent.name for url in responses}
    for other in ("/static/app.js", f"/static/{version[::-1]}/app.js"):
        response = running.client.get(other)
        assert (response.status_code, response.headers["cache-control"]) == (200, "no-cache")
        again = running.client.get(other, headers={"If-None-Match": response.headers["etag"]})
        assert (again.status_code, again.headers["cache-control"]) == (304, "no-cache")
        assert running.client.head(other).headers["content-length"] == response.headers["content-length"]
    for missing in ("/static/", "/static/none.js", f"/static/{version}/none.js", f"/static/{version}/../page.py"):
        assert running.client.get(missing).status_code == 404


def test_files_are_compressed_if_accepted_and_revalidated_by_etag(running: Running) -> None:
    urls = fetch_all(running)
    fetched = 0
    for url in urls:
        with running.client.stream("GET", url, headers={"Accept-Encoding": "gzip"}) as packed:
            fetched += sum(map(len, packed.iter_raw()))
        assert packed.headers["content-encoding"] == "gzip"
        assert packed.headers["vary"] == "Accept-Encoding"
        plain = running.client.get(url, headers={"Accept-Encoding": "br, gzip;q=0"})
        assert "content-encoding" not in plain.headers
        assert running.client.get(url).content == plain.content
        for known in (packed, plain):
            again = running.client.get(url, headers={"If-None-Match": known.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
    assert fetched < 90_000


def test_the_page_is_small_and_requests_no_other_host() -> None:
    at_start = with_imports({"app.js"})
    initial = [path for path in FILES if path.suffix != ".js" or path.name in at_start]
    assert sum(path.stat().st_size for path in initial) < 150_000  # uncompressed, with comments
    assert not LAZY_MODULES & at_start
    for path in FILES:
        urls = set(re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", path.read_text("utf-8")))
        assert urls <= {"http://www.w3.org"}, path  # the XML namespace of SVG


def test_the_page_complies_with_its_content_security_policy() -> None:
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=|javascript:", PAGE)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|\beval\(|new Function", CODE)


def test_scripts_and_labels_refer_to_existing_elements() -> None:
    ids = set(re.findall(r'\bid="([^"]+)"', PAGE))
    used = set(re.findall(r'\$\("([^"]+)"\)', CODE))
    assert used <= ids
    for target in re.findall(r'(?:for|aria-labelledby)="([^"]+)"|href="#([^"]+)"', PAGE):
        assert set(filter(None, target)) <= ids
