"""The page for people: its files, which are read once, and sent packed to browsers that take them so.

The page names its files below ``/static/<version>/``, where the version is a hash of them all. Modules import each
other by relative addresses and so in the same version. A browser keeps such a file for good, and asks anew for the page
alone.
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

from service.http.auth import requires

STATIC = Path(__file__).parent / "static"
IMMUTABLE, REVALIDATED = "public, max-age=31536000, immutable", "no-cache"


@dataclass(frozen=True)
class PageFile:
    """A file of the page, as it is sent."""

    content: bytes
    media_type: str

    @cached_property
    def packed(self) -> bytes:
        """The content in gzip: text, a third as long."""
        return gzip.compress(self.content, mtime=0)

    @cached_property
    def etag(self) -> str:
        return f'"{hashlib.sha256(self.content).hexdigest()[:32]}"'

    def response(self, request: Request, cache_control: str) -> Response:
        """The file, packed or not; 304 where the browser has it already."""
        headers = {"Cache-Control": cache_control, "ETag": self.etag, "Vary": "Accept-Encoding"}
        stated = request.headers.get("if-none-match", "")
        if self.etag in (tag.strip().removeprefix("W/") for tag in stated.split(",")):
            return Response(status_code=304, headers=headers)
        if not _takes_gzip(request.headers):
            return Response(self.content, headers=headers, media_type=self.media_type)
        headers |= {"ETag": f"W/{self.etag}", "Content-Encoding": "gzip"}  # weak: of the same content
        return Response(self.packed, headers=headers, media_type=self.media_type)


class PageFiles:
    """The files in ``folder``, ``index.html`` among them, and the version that their content makes."""

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


_page = PageFiles(STATIC)
router = APIRouter(include_in_schema=False)


@router.api_route("/", methods=["GET", "HEAD"])
@requires(None)
async def get_page(request: Request) -> Response:
    """The page for people."""
    return _page.index.response(request, REVALIDATED)


@router.api_route("/static/{name}", methods=["GET", "HEAD"])
@router.api_route("/static/{version}/{name}", methods=["GET", "HEAD"])
@requires(None)
async def get_file(request: Request, name: str, version: str = "") -> Response:
    """A file that the page names. Of another version, such as that of a page from before an upgrade, it is the present
    file, which is not kept.
    """
    if name not in _page.files:
        raise HTTPException(404)
    return _page.files[name].response(request, IMMUTABLE if version == _page.version else REVALIDATED)


@router.api_route("/openapi.json", methods=["GET", "HEAD"])
@requires(None)
async def get_openapi_document(request: Request) -> Response:
    """Return the OpenAPI document."""
    return JSONResponse(request.app.openapi())


def _takes_gzip(headers: Headers) -> bool:
    stated = [part.replace(" ", "") for part in headers.get("accept-encoding", "").lower().split(",")]
    return any(part == "gzip" or (part.startswith("gzip;q=") and part.strip("0.") != "gzip;q=") for part in stated)
