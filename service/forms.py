"""Uploads: multipart/form-data read as it comes in, the file straight to disk with its SHA-256, fields to
memory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.errors import BadRequest, ContentTypeUnsupported, PayloadTooLarge
from service.pools import Pool
from service.state import Service
from vitascope.errors import StorageError

Schema = TypeVar("Schema", bound=BaseModel)

WRITE_BYTES = 1024**2
"""Bytes that are gathered before a thread writes them."""
MAX_PARTS = 1000
MAX_NAME = 255


@dataclass(frozen=True)
class Upload:
    """A file that came in. ``name`` is what the client called it, without folders."""

    path: Path
    name: str
    sha256: str
    size: int


@dataclass
class Form:
    """A form: its one file, and its fields in the order in which they came."""

    upload: Upload
    fields: dict[str, list[str]]


@dataclass
class _Part:
    name: str
    file_name: str | None
    data: bytearray = field(default_factory=bytearray)


@asynccontextmanager
async def read_form(request: Request, service: Service, pool: Pool | None = None) -> AsyncIterator[Form]:
    """The form of a request, its file among the uploads until the end of the context (unless it was moved away).

    ``pool``: whose threads write the file, those for reading by default.

    Raises ContentTypeUnsupported, BadRequest, PayloadTooLarge, StorageError and RequestValidationError.
    """
    settings, target = service.settings, service.media.new_upload()
    try:
        yield await _receive(
            request, target, pool or service.light, settings.max_upload_bytes, settings.max_field_bytes
        )
    finally:
        # Short, and must happen even when the request is being cancelled: not in a thread.
        target.unlink(missing_ok=True)


def parse_fields(
    schema: type[Schema],
    fields: Mapping[str, list[str]],
    *,
    lists: tuple[str, ...] = (),
    as_json: tuple[str, ...] = ("metadata", "segmentation"),
) -> Schema:
    """Form fields as a schema. Those in ``lists`` may come many times; values of those in ``as_json`` are JSON.

    Raises RequestValidationError.
    """
    values: dict[str, Any] = {}
    for name, given in fields.items():
        if name in lists:
            values[name] = given
        elif len(given) > 1:
            raise invalid(name, "given more than once; one value was expected")
        elif name in as_json:
            values[name] = _json_value(name, given[0])
        else:
            values[name] = given[0]
    return validated(schema, values, strict=False)


def validated(schema: type[Schema], values: object, *, strict: bool = True) -> Schema:
    """``values`` as a schema; text as what it says, unless ``strict``. Raises RequestValidationError as FastAPI does
    for a body.
    """
    try:
        return schema.model_validate(values, strict=strict)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        raise RequestValidationError([{**e, "loc": ("body", *e["loc"])} for e in found]) from error


def invalid(name: str, message: str) -> RequestValidationError:
    """One field of the body that is wrong."""
    return RequestValidationError([{"type": "value_error", "loc": ("body", name), "msg": message}])


async def read_json(request: Request) -> object:
    """The body of a request as JSON. Raises RequestValidationError."""
    try:
        return await request.json()
    except (ValueError, RecursionError) as error:
        raise invalid("body", f"not JSON ({error})") from error


def body_kind(request: Request, json_means: str, form_means: str) -> str:
    """Which of the two types a body has that may come either way. Raises ContentTypeUnsupported."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("application/json", "multipart/form-data"):
        raise ContentTypeUnsupported(
            f"Content-Type: {kind[:80]!r}; application/json ({json_means}) or multipart/form-data ({form_means}) "
            "was expected"
        )
    return kind


def _json_value(name: str, text: str) -> object:
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise invalid(name, f"not JSON ({error}); JSON was expected") from error
    return value


async def _receive(request: Request, target: Path, pool: Pool, max_file_bytes: int, max_field_bytes: int) -> Form:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise ContentTypeUnsupported(
            f"Content-Type: {request.headers.get('content-type', '')!r}; multipart/form-data with a "
            "boundary was expected"
        )
    reader = _Reader(options[b"boundary"], max_file_bytes, max_field_bytes)
    file = await pool.run(_open_new, target)
    try:
        async for chunk in request.stream():
            reader.feed(chunk)
            if len(reader.pending) >= WRITE_BYTES:
                await pool.run(reader.flush, file)
        await pool.run(reader.flush, file)
    finally:
        with suppress(OSError):  # nothing is left to write, or that has failed already
            file.close()
    return Form(reader.finish(target), reader.fields)


class _Reader:
    """Turns the bytes of a form into fields and pieces of the file; what is ``pending`` waits to be written."""

    def __init__(self, boundary: bytes, max_file_bytes: int, max_field_bytes: int) -> None:
        self.fields: dict[str, list[str]] = {}
        self.pending = bytearray()
        self._max_file, self._max_field = max_file_bytes, max_field_bytes
        self._size = 0
        self._digest = hashlib.sha256()
        self._file_name: str | None = None
        self._part: _Part | None = None
        self._headers: dict[bytes, bytes] = {}
        self._header = (bytearray(), bytearray())
        self._parts = 0
        self._ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
                "on_header_end": self._end_header,
                "on_headers_finished": self._begin_content,
                "on_part_data": self._take,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )

    def feed(self, chunk: bytes) -> None:
        if not chunk:
            return
        try:
            self._parser.write(chunk)
        except MultipartParseError as error:
            raise BadRequest(f"body: no readable form: {error}") from error

    def flush(self, file: BinaryIO) -> None:
        """Write what is pending; runs in a thread, while nothing is fed. Raises StorageError."""
        try:
            file.write(self.pending)
            file.flush()
        except OSError as error:
            raise StorageError(f"{file.name}: {error}") from error
        self._digest.update(self.pending)
        self.pending.clear()

    def finish(self, target: Path) -> Upload:
        if not self._ended:
            raise BadRequest("body: the form ends in the middle; its closing boundary was expected")
        if self._file_name is None:
            raise invalid("file", "missing; a video or picture was expected")
        return Upload(target, self._file_name, self._digest.hexdigest(), self._size)

    def _begin_part(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise PayloadTooLarge(f"body: more than {MAX_PARTS} parts; at most that many were expected")
        self._headers = {}

    def _end_header(self) -> None:
        name, value = self._header
        self._headers[bytes(name).lower()] = bytes(value)
        self._header = (bytearray(), bytearray())

    def _begin_content(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        if b"name" not in options:
            raise BadRequest("body: a part without a name; Content-Disposition: form-data; name=… was expected")
        name = options[b"name"].decode("utf-8", "replace")[:MAX_NAME]
        file_name = options.get(b"filename")
        if (name == "file") != (file_name is not None):
            raise invalid(name, "the part `file`, and no other, is expected to be a file")
        if file_name is not None:
            if self._file_name is not None:
                raise invalid("file", "given more than once; one file was expected")
            self._file_name = _base_name(file_name.decode("utf-8", "replace"))
        self._part = _Part(name, self._file_name if file_name is not None else None)

    def _take(self, data: bytes, start: int, end: int) -> None:
        assert self._part is not None
        if self._part.file_name is None:
            if len(self._part.data) + end - start > self._max_field:
                raise PayloadTooLarge(
                    f"{self._part.name}: more than {self._max_field} bytes; at most that was expected"
                )
            self._part.data += data[start:end]
            return
        self._size += end - start
        if self._size > self._max_file:
            raise PayloadTooLarge(f"file: more than {self._max_file} bytes; at most that many were expected")
        self.pending += data[start:end]

    def _end_part(self) -> None:
        part, self._part = self._part, None
        if part is not None and part.file_name is None:
            try:
                self.fields.setdefault(part.name, []).append(part.data.decode())
            except UnicodeDecodeError as error:
                raise invalid(part.name, f"not UTF-8 at byte {error.start}") from error

    def _end(self) -> None:
        self._ended = True


def _open_new(path: Path) -> BinaryIO:
    try:
        return path.open("xb")
    except OSError as error:
        raise StorageError(f"{path}: {error}") from error


def _base_name(name: str) -> str:
    """What the client calls the file, without folders and unprintable characters; for titles and messages
    only.
    """
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    return "".join(c for c in last if c.isprintable())[:MAX_NAME] or "upload"
