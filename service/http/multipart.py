"""Uploads: multipart/form-data read as it comes in, the file straight to disk with its SHA-256, fields to
memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.app_state import AppState
from service.errors import BadRequest, ContentTypeUnsupported, PayloadTooLarge
from service.http.parsing import content_type, invalid, json_bytes, parse_json, parsing
from service.pools import Pool
from service.settings import Settings
from vitascope.errors import StorageError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

Schema = TypeVar("Schema", bound=BaseModel)

WRITE_BYTES = 1024**2
"""Bytes that are gathered before a thread writes them."""
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
    max_json_values: int
    """How many values a field that is JSON may have."""
    hold: Callable[[int], None]
    """Counts bytes that are held in memory. Raises Overloaded."""


@dataclass
class _Part:
    name: str
    file_name: str | None
    data: bytearray = field(default_factory=bytearray)


@asynccontextmanager
async def read_form(request: Request, service: AppState, pool: Pool | None = None) -> AsyncIterator[Form]:
    """The form of a request, its file among the uploads until the end of the context (unless it was moved away).

    ``pool``: whose threads write the file, those for reading by default.

    Raises ContentTypeUnsupported, BadRequest, PayloadTooLarge, StorageError and RequestValidationError.
    """
    target = service.media.new_upload()
    try:
        yield await _receive(request, target, service.settings, pool or service.io_pool)
    finally:
        # Short, and must happen even when the request is being cancelled: not in a thread.
        target.unlink(missing_ok=True)


def parse_fields(
    schema: type[Schema],
    form: Form,
    *,
    lists: tuple[str, ...] = (),
    as_json: tuple[str, ...] = ("metadata", "segmentation"),
) -> Schema:
    """Form fields as a schema. Those in ``lists`` may come many times; values of those in ``as_json`` are JSON.

    Raises RequestValidationError, PayloadTooLarge and Overloaded.
    """
    values: dict[str, Any] = {}
    for name, given in form.fields.items():
        if name in lists:
            values[name] = given
        elif len(given) > 1:
            raise invalid(name, "given more than once; one value was expected")
        elif name in as_json:
            document = given[0].encode()
            form.hold(json_bytes(document))
            values[name] = parse_json(document, form.max_json_values, name)
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


def body_kind(request: Request, json_means: str, form_means: str) -> str:
    """Which of the two types a body has that may come either way. Raises ContentTypeUnsupported."""
    kind = content_type(request)
    if kind not in ("application/json", "multipart/form-data"):
        raise ContentTypeUnsupported(
            f"Content-Type: {kind[:80]!r}; application/json ({json_means}) or multipart/form-data ({form_means}) "
            "was expected"
        )
    return kind


async def _receive(request: Request, target: Path, settings: Settings, pool: Pool) -> Form:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise ContentTypeUnsupported(
            f"Content-Type: {request.headers.get('content-type', '')!r}; multipart/form-data with a "
            "boundary was expected"
        )
    reader = _Reader(settings)
    with parsing("Content-Type"):
        parser = MultipartParser(options[b"boundary"], reader.callbacks())
    file = await pool.run(_open_new, target)
    try:
        async for chunk in request.stream():
            with parsing("body"):
                parser.write(chunk)
            if len(reader.pending) >= WRITE_BYTES:
                await pool.run(reader.flush, file)
        await pool.run(reader.flush, file)
    finally:
        with suppress(OSError):  # nothing is left to write, or that has failed already
            file.close()
    hold = request.state.reserve_bytes
    hold(4 * reader.field_bytes)  # a character of a string takes up to four bytes
    return Form(reader.finish(target), reader.fields, settings.max_json_values, hold)


class _Reader:
    """Collects the parts of a form from a parser: fields, and pieces of the file.

    It has no reference to the parser, which refers to it: together they would be a cycle that keeps all fields until
    the garbage collector runs.
    """

    def __init__(self, settings: Settings) -> None:
        self.fields: dict[str, list[str]] = {}
        self.pending = bytearray()
        """What came of the file and is not written yet."""
        self._settings = settings
        self._size = 0
        self._digest = hashlib.sha256()
        self._file_name: str | None = None
        self._part: _Part | None = None
        self._headers: dict[bytes, bytes] = {}
        self._header = (bytearray(), bytearray())
        self._parts = 0
        self.field_bytes = 0
        """Bytes of the fields with their headers."""
        self._ended = False

    def callbacks(self) -> MultipartCallbacks:
        """What a parser is to call."""
        return {
            "on_part_begin": self._begin_part,
            "on_header_field": lambda data, start, end: self._add_header(0, data[start:end]),
            "on_header_value": lambda data, start, end: self._add_header(1, data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._begin_content,
            "on_part_data": self._take,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

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
        most = self._settings.max_form_fields
        if self._parts > most:
            raise PayloadTooLarge(f"body: more than {most} fields (max_form_fields); at most that many were expected")
        self._headers = {}

    def _count(self, size: int) -> None:
        """Count bytes that are kept in memory, before they are."""
        self.field_bytes += size
        most = self._settings.max_form_bytes
        if self.field_bytes > most:
            raise PayloadTooLarge(
                f"body: more than {most} bytes in its fields together (max_form_bytes), the file aside; "
                "at most that many were expected"
            )

    def _add_header(self, part: int, data: bytes) -> None:
        self._count(len(data))
        self._header[part].extend(data)

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
            most = self._settings.max_field_bytes
            if len(self._part.data) + end - start > most:
                raise PayloadTooLarge(
                    f"{self._part.name}: more than {most} bytes (max_field_bytes); at most that was expected"
                )
            self._count(end - start)
            self._part.data += data[start:end]
            return
        most = self._settings.max_upload_bytes
        self._size += end - start
        if self._size > most:
            raise PayloadTooLarge(f"file: more than {most} bytes (max_upload_bytes); at most that many were expected")
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
