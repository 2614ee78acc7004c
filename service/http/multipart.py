"""Streaming parser of multipart forms: the file is written to disk and hashed, fields are kept in memory."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from fastapi import Request
from pydantic import BaseModel
from python_multipart.multipart import MultipartParser, parse_options_header

from service.app_state import AppState
from service.errors import BadRequest, ContentTypeUnsupported, PayloadTooLarge
from service.http.limits import Pool
from service.http.parsing import invalid, json_bytes, parse_body, parse_json, parsing
from service.settings import Settings
from vitascope.errors import StorageError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

Schema = TypeVar("Schema", bound=BaseModel)

WRITE_BYTES = 1024**2
"""Bytes of the file that are buffered before a thread writes and hashes them."""
MAX_NAME_LENGTH = 255
JSON_FIELDS = frozenset({"metadata", "segmentation", "query", "signals", "filter"})
"""Fields whose value is a JSON document."""


@dataclass(frozen=True)
class Upload:
    """An uploaded file. ``name``: the client's name for it, without folders."""

    path: Path
    name: str
    sha256: str
    size: int


@dataclass
class Form:
    """A parsed form: its file, and the values of its fields in order."""

    upload: Upload
    fields: dict[str, list[str]]
    max_json_values: int
    reserve_bytes: Callable[[int], None]
    """Counts further bytes of memory for the request. Raises Overloaded."""


@asynccontextmanager
async def read_form(request: Request, service: AppState, pool: Pool | None = None) -> AsyncIterator[Form]:
    """Yield the form of a request. Its file is removed at the end of the context, unless it was moved.

    Args:
        request: The request.
        service: The service, with the folder of uploads and the settings.
        pool: Threads that write the file; None: the pool for reading files.

    Raises:
        ContentTypeUnsupported, BadRequest, PayloadTooLarge, RequestValidationError: The form is invalid.
        StorageFull: There is no space for the form.
        StorageError: The file cannot be written.
    """
    target = service.media.new_upload()
    length = request.headers.get("content-length", "")
    try:
        with service.media.reserve(target, int(length) if length.isdecimal() else 0):
            form = await _receive(request, target, service, pool or service.io_pool)
        yield form
    finally:
        # Not in a thread: it is short, and must also run while the request is being cancelled.
        target.unlink(missing_ok=True)


def parse_fields(schema: type[Schema], form: Form, *, lists: tuple[str, ...] = ()) -> Schema:
    """Validate the fields of a form.

    Args:
        schema: Schema of the fields.
        form: The parsed form.
        lists: Names of fields that may be repeated.

    Raises:
        RequestValidationError, PayloadTooLarge, Overloaded: A field is invalid, or too large once parsed.
    """
    values: dict[str, Any] = {}
    for name, texts in form.fields.items():
        if name in lists:
            values[name] = texts
        elif len(texts) > 1:
            raise invalid(name, "given more than once; one value was expected")
        elif name in JSON_FIELDS:
            document = texts[0].encode()
            form.reserve_bytes(json_bytes(document))
            values[name] = parse_json(document, form.max_json_values, name)
        else:
            values[name] = texts[0]
    return parse_body(schema, values, strict=False)


async def _receive(request: Request, target: Path, service: AppState, pool: Pool) -> Form:
    media_type, options = parse_options_header(request.headers.get("content-type", ""))
    if media_type != b"multipart/form-data" or not options.get(b"boundary"):
        raise ContentTypeUnsupported(
            f"Content-Type: {request.headers.get('content-type', '')!r}; multipart/form-data with a "
            "boundary was expected"
        )
    settings = service.settings
    reader = _FormReader(settings)
    has_reserved = "content-length" in request.headers
    with parsing("Content-Type"):
        parser = MultipartParser(options[b"boundary"], reader.callbacks())
    file = await pool.run(_create, target)
    try:
        async for chunk in request.stream():
            with parsing("body"):
                parser.write(chunk)
            if len(reader.pending) >= WRITE_BYTES:
                if not has_reserved:
                    service.media.require_space(len(reader.pending))
                await pool.run(reader.flush, file)
        await pool.run(reader.flush, file)
    finally:
        with suppress(OSError):  # nothing is left to write, or writing has failed already
            file.close()
    request.state.reserve_bytes(4 * reader.field_bytes)  # a character of a string takes up to four bytes
    return Form(reader.finish(target), reader.fields, settings.max_json_values, request.state.reserve_bytes)


class _FormReader:
    """Receives the events of a multipart parser.

    It has no reference to the parser, whose callbacks refer to it: a reference cycle would keep all fields in memory
    until the garbage collector runs.
    """

    def __init__(self, settings: Settings) -> None:
        self.fields: dict[str, list[str]] = {}
        self.pending = bytearray()
        """Received bytes of the file that are not written yet."""
        self.field_bytes = 0
        """Bytes of all fields and part headers."""
        self._settings = settings
        self._parts = 0
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._field: str | None = None
        """Name of the current part; None between parts, and for the file."""
        self._value = bytearray()
        self._file_name: str | None = None
        self._size = 0
        self._sha256 = hashlib.sha256()
        self._is_complete = False

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin_part,
            "on_header_field": lambda data, start, end: self._add_header(self._header_name, data[start:end]),
            "on_header_value": lambda data, start, end: self._add_header(self._header_value, data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._begin_content,
            "on_part_data": self._add_content,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def flush(self, file: BinaryIO) -> None:
        """Write and hash pending bytes. Runs in a thread while no data are parsed. Raises StorageError."""
        try:
            file.write(self.pending)
            file.flush()
        except OSError as error:
            raise StorageError(f"{file.name}: {error}") from error
        self._sha256.update(self.pending)
        self.pending.clear()

    def finish(self, target: Path) -> Upload:
        """Return the file. Raises BadRequest and RequestValidationError for an incomplete form."""
        if not self._is_complete:
            raise BadRequest("body: the form is incomplete; its closing boundary was expected")
        if self._file_name is None:
            raise invalid("file", "missing; a video or image was expected")
        return Upload(target, self._file_name, self._sha256.hexdigest(), self._size)

    def _begin_part(self) -> None:
        self._parts += 1
        limit = self._settings.max_form_fields
        if self._parts > limit:
            raise PayloadTooLarge(f"body: more than {limit} fields (max_form_fields); at most that many were expected")
        self._headers = {}

    def _count(self, size: int) -> None:
        """Count bytes before they are kept in memory."""
        self.field_bytes += size
        limit = self._settings.max_form_bytes
        if self.field_bytes > limit:
            raise PayloadTooLarge(
                f"body: more than {limit} bytes in its fields together (max_form_bytes), without the file; "
                "at most that many were expected"
            )

    def _add_header(self, part: bytearray, data: bytes) -> None:
        self._count(len(data))
        part.extend(data)

    def _end_header(self) -> None:
        self._headers[bytes(self._header_name).lower()] = bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()

    def _begin_content(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        if b"name" not in options:
            raise BadRequest("body: a part without a name; Content-Disposition: form-data; name=… was expected")
        name = options[b"name"].decode("utf-8", "replace")[:MAX_NAME_LENGTH]
        file_name = options.get(b"filename")
        if (name == "file") != (file_name is not None):
            raise invalid(name, "the field `file`, and no other, must be a file")
        if file_name is None:
            self._field = name
            return
        if self._file_name is not None:
            raise invalid("file", "given more than once; one file was expected")
        self._file_name = _base_name(file_name.decode("utf-8", "replace"))

    def _add_content(self, data: bytes, start: int, end: int) -> None:
        size = end - start
        if self._field is None:
            self._size += size
            if self._size > (limit := self._settings.max_video_bytes):
                raise PayloadTooLarge(
                    f"file: more than {limit} bytes; at most that many were expected (VITASCOPE_MAX_VIDEO_BYTES)"
                )
            self.pending += data[start:end]
            return
        if len(self._value) + size > (limit := self._settings.max_field_bytes):
            raise PayloadTooLarge(
                f"{self._field}: more than {limit} bytes (max_field_bytes); at most that many were expected"
            )
        self._count(size)
        self._value += data[start:end]

    def _end_part(self) -> None:
        if self._field is None:
            return
        try:
            self.fields.setdefault(self._field, []).append(self._value.decode())
        except UnicodeDecodeError as error:
            raise invalid(self._field, f"not UTF-8 at byte {error.start}") from error
        self._field = None
        self._value.clear()

    def _end(self) -> None:
        self._is_complete = True


def _create(path: Path) -> BinaryIO:
    try:
        return path.open("xb")
    except OSError as error:
        raise StorageError(f"{path}: {error}") from error


def _base_name(name: str) -> str:
    """Return a client's file name without folders and unprintable characters, for titles and messages only."""
    # Browsers, curl and httpx send a quotation mark as %22 (HTML standard, multipart/form-data).
    last = name.replace("%22", '"').replace("\\", "/").rsplit("/", 1)[-1]
    return "".join(character for character in last if character.isprintable())[:MAX_NAME_LENGTH] or "upload"
