"""The page for people: files that are sent packed to browsers that take them so."""

from __future__ import annotations

import gzip
import os
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.datastructures import Headers
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

STATIC = Path(__file__).parent / "static"


class PageFiles(StaticFiles):
    """``StaticFiles`` with gzip: the page's code is text, a third as long when it is packed."""

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers["Vary"] = "Accept-Encoding"
        if not isinstance(response, FileResponse) or not _takes_gzip(Headers(scope=scope)):
            return response
        kept = {name: response.headers[name] for name in ("Vary", "ETag", "Last-Modified")}
        headers = {**kept, "ETag": f"W/{kept['ETag']}", "Content-Encoding": "gzip"}  # weak: of the same content
        return Response(_packed(Path(full_path), stat_result.st_mtime_ns), status_code, headers, response.media_type)


files = PageFiles(directory=STATIC)
router = APIRouter(include_in_schema=False)


@router.get("/")
async def index_page(request: Request) -> Response:
    """The page for people."""
    response = await files.get_response("index.html", request.scope)
    response.headers["Cache-Control"] = "no-cache"
    return response


def _takes_gzip(headers: Headers) -> bool:
    stated = [part.replace(" ", "") for part in headers.get("accept-encoding", "").lower().split(",")]
    return any(part == "gzip" or (part.startswith("gzip;q=") and part.strip("0.") != "gzip;q=") for part in stated)


@cache
def _packed(path: Path, changed_at: int) -> bytes:
    """The file as it was at ``changed_at``, in nanoseconds."""
    return gzip.compress(path.read_bytes(), mtime=0)
