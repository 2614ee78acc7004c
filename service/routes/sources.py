"""Requests about a media file: a stored video (JSON body) or an upload (form)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from typing import TypeVar

from fastapi import Request

from service.app_state import AppState
from service.http.auth import caller_key
from service.http.multipart import parse_fields, read_form
from service.http.openapi import errors
from service.http.parsing import is_json_or_form, parse_body
from service.inference.embedding import SourceFile, stored_file, uploaded_file
from service.inference.request_context import RequestContext, request_context
from service.schemas.scores_answers import StoredClip, TimeRange

Body = TypeVar("Body", bound=TimeRange)
Form = TypeVar("Form", bound=TimeRange)
Result = TypeVar("Result")
OpenSource = Callable[[RequestContext], AbstractContextManager[SourceFile]]
"""Opens the file that a request is about; runs in a thread."""
SOURCE_ERRORS = errors(400, 403, 404, 409, 413, 415, 422, 503, 507)
LISTS = ("captions", "references", "candidates", "texts", "phrases", "hypotheses")
"""Fields of forms that may be repeated, once per value."""


async def compute_for_source(
    request: Request,
    service: AppState,
    json_schema: type[Body],
    form_schema: type[Form],
    check: Callable[[Body | Form], None],
    compute: Callable[[RequestContext, OpenSource, Body | Form], Result],
    is_long: Callable[[Body | Form], bool] = lambda _: False,
) -> Result:
    """Check the fields of a request, run ``compute`` with them in a thread, and return its result.

    Args:
        request: The request.
        service: The service.
        json_schema: Schema of a JSON body, which names a stored video.
        form_schema: Schema of the fields of a form with a file.
        check: Raises an error for invalid fields; called before a file is read.
        compute: Computes the result.
        is_long: Returns whether the request embeds many clips.

    Raises:
        The errors of ``check`` and ``compute``, and errors of parsing and limits.
    """
    async with (
        _parse_source_request(request, service, json_schema, form_schema, check) as (fields, open_source),
        request_context(request, service, is_long=is_long(fields)) as context,
    ):
        run = context.run_long if is_long(fields) else context.run
        return await run(compute, context, open_source, fields)


@asynccontextmanager
async def _parse_source_request(
    request: Request,
    service: AppState,
    json_schema: type[Body],
    form_schema: type[Form],
    check: Callable[[Body | Form], None],
) -> AsyncIterator[tuple[Body | Form, OpenSource]]:
    """Yield the fields of a request, and a function that opens its media file."""
    if is_json_or_form(request, "a stored video", "a file"):
        body = parse_body(json_schema, await request.json())
        assert isinstance(body, StoredClip)
        stored: StoredClip = body
        caller_key(request).require_collection(stored.collection)
        check(body)
        yield body, lambda context: stored_file(context, stored.collection, stored.video_id)
        return
    async with read_form(request, service) as form:
        fields = parse_fields(form_schema, form, lists=LISTS)
        check(fields)
        yield fields, lambda context: uploaded_file(form.upload)
