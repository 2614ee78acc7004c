"""Routes outside the API: the web page, the OpenAPI document and metrics.

The files of the page are read once, and sent compressed if the browser accepts it. The page refers to them as
``/static/<version>/``; the version is a hash of all files. Modules import each other by relative URLs, so all have the
same version. Browsers cache these files permanently and revalidate only the page.
"""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fastapi import APIRouter, HTTPException, Request
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response

from service.app_state import AppStateDep
from service.http.auth import requires
from service.http.parsing import matches_etag

WEB_FILES = Path(__file__).parent / "web"
IMMUTABLE, REVALIDATED = "public, max-age=31536000, immutable", "no-cache"


@dataclass(frozen=True)
class PageFile:
    """A file of the web page."""

    content: bytes
    media_type: str

    @cached_property
    def compressed(self) -> bytes:
        return gzip.compress(self.content, mtime=0)

    @cached_property
    def etag(self) -> str:
        return f'"{hashlib.sha256(self.content).hexdigest()[:32]}"'

    def response(self, request: Request, cache_control: str) -> Response:
        """Return the file, compressed if accepted; 304 if the browser has it."""
        headers = {"Cache-Control": cache_control, "ETag": self.etag, "Vary": "Accept-Encoding"}
        if matches_etag(request.headers, self.etag):
            return Response(status_code=304, headers=headers)
        if not _accepts_gzip(request.headers):
            return Response(self.content, headers=headers, media_type=self.media_type)
        headers |= {"ETag": f"W/{self.etag}", "Content-Encoding": "gzip"}  # weak: the same content
        return Response(self.compressed, headers=headers, media_type=self.media_type)


class PageFiles:
    """The files in a folder, including ``index.html``, and their version."""

    def __init__(self, folder: Path) -> None:
        contents = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
        digest = hashlib.sha256()
        for name, content in contents.items():
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
        self.version = digest.hexdigest()[:16]
        page = contents.pop("index.html").replace(b'"/static/', f'"/static/{self.version}/'.encode())
        self.index = PageFile(page, "text/html")
        self.files = {
            name: PageFile(content, mimetypes.guess_type(name)[0] or "application/octet-stream")
            for name, content in contents.items()
        }


_page = PageFiles(WEB_FILES)
router = APIRouter(include_in_schema=False)


@router.api_route("/", methods=["GET", "HEAD"])
@requires(None)
async def get_page(request: Request) -> Response:
    """Return the web page."""
    return _page.index.response(request, REVALIDATED)


@router.api_route("/static/{name}", methods=["GET", "HEAD"])
@router.api_route("/static/{version}/{name}", methods=["GET", "HEAD"])
@requires(None)
async def get_file(request: Request, name: str, version: str = "") -> Response:
    """Return a file of the page. If the requested version is not current (after an upgrade), it must not be cached."""
    if name not in _page.files:
        raise HTTPException(404)
    return _page.files[name].response(request, IMMUTABLE if version == _page.version else REVALIDATED)


@router.api_route("/openapi.json", methods=["GET", "HEAD"])
@requires(None)
async def get_openapi_document(request: Request) -> Response:
    """Return the OpenAPI document."""
    return JSONResponse(request.app.openapi())


@router.api_route("/metrics", methods=["GET", "HEAD"])
@requires("admin", all_collections=True, public_if="public_metrics")
async def metrics(service: AppStateDep) -> Response:
    """Return all metrics in Prometheus's text format."""
    return Response(service.observer.metrics.to_text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _accepts_gzip(headers: Headers) -> bool:
    codings = [part.replace(" ", "") for part in headers.get("accept-encoding", "").lower().split(",")]
    return any(part == "gzip" or (part.startswith("gzip;q=") and part.strip("0.") != "gzip;q=") for part in codings)
