"""Transcriptions of uploaded files, with the interface of OpenAI."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import orjson
from fastapi import APIRouter, Request, Response

from service.app_state import AppState, ReadyAppStateDep
from service.errors import ModelNotFound
from service.files import rename_errors
from service.http.auth import requires
from service.http.multipart import Upload, parse_fields, read_form
from service.http.openapi import errors, form_body, successes
from service.http.parsing import StrictRoute
from service.inference.request_context import RequestContext, request_context
from service.schemas.transcriptions import Transcription, TranscriptionForm
from vitascope.errors import InvalidInput, MediaUnsupported, TaskMissing
from vitascope.media.file import MediaFile
from vitascope.sandbox.recognition import Recognizer, Transcribe
from vitascope.speech.interface import SpeechSegment
from vitascope.speech.transcript_formats import format_srt, format_text, format_vtt, verbose_json

router = APIRouter(prefix="/v1", tags=["transcriptions"], route_class=StrictRoute)

_TEXT, _SRT, _VTT = "text/plain; charset=utf-8", "application/x-subrip; charset=utf-8", "text/vtt; charset=utf-8"
_TEXTS = {media_type.split(";")[0]: {"schema": {"type": "string"}} for media_type in (_TEXT, _SRT, _VTT)}


class Transcript(NamedTuple):
    """The transcript of a file of ``duration`` seconds, by a recogniser."""

    model: str
    duration: float
    segments: list[SpeechSegment]


@router.post("/audio/transcriptions", include_in_schema=False)
@router.post(
    "/transcriptions",
    summary="Transcribe a file",
    response_model=Transcription,
    responses=errors(400, 404, 409, 413, 415, 422, 503, 507)
    | successes(_200={"description": "`json` has only the text", "content": _TEXTS}),
    openapi_extra=form_body(TranscriptionForm, kinds="video or sound"),
)
@requires("read")
async def transcribe(request: Request, service: ReadyAppStateDep) -> Response:
    """Transcribe the speech of a video or sound file, which is not stored. `/v1/audio/transcriptions` is the same.

    Requests and responses have the format of OpenAI, so its clients work. Requests and jobs share one recogniser, which
    takes turns after about a minute of a file. Longer files than `request_timeout` allows are better indexed by a job
    with `transcribe`.
    """
    recognizer = _speech_recognizer(service)  # before the file is received
    with service.upload_pool.slot():
        async with read_form(request, service, service.write_pool) as form:
            fields = parse_fields(TranscriptionForm, form, lists=("timestamp_granularities[]",))
            if "word" in fields.timestamp_granularities and fields.response_format != "verbose_json":
                raise InvalidInput(
                    f"response_format: {fields.response_format!r}; 'verbose_json' was expected, which alone has words"
                )
            async with request_context(request, service, bulk=True) as context:
                transcript = await context.upload(lambda: _transcribe(context, recognizer, form.upload, fields))
    return _respond(transcript, fields)


def _speech_recognizer(service: AppState) -> Recognizer:
    if service.settings.speech_model is None:
        raise TaskMissing("transcriptions: the service has no speech model; the setting speech_model was expected")
    return service.recognizers.get("speech")


def _transcribe(
    context: RequestContext, recognizer: Recognizer, upload: Upload, fields: TranscriptionForm
) -> Transcript:
    """Transcribe a file.

    Raises ModelNotFound, InvalidInput for the language, media errors, and the errors of ``Recognizer.run``.
    """
    name = recognizer.wait_until_ready(context.call_context)
    if fields.model is not None and fields.model not in (name, name.partition("/")[2], recognizer.model):
        raise ModelNotFound(f"model: {fields.model!r}; {name!r} was expected, the speech model of this service")
    limits = context.service.settings.media_limits()
    with rename_errors(upload.path, upload.name), MediaFile.open(upload.path) as file:
        info = context.decoder.probe(file, limits)
        if info.audio is None:
            raise MediaUnsupported(f"{upload.name}: no audio track; a file with sound was expected")
        task = Transcribe(info.duration, language=fields.language, limits=limits, time_factor=recognizer.time_factor)
        interactive = replace(
            context.call_context, bulk=False
        )  # takes turns with the parts of files that jobs transcribe
        return Transcript(name, info.duration, recognizer.transcribe(task, file, interactive))


def _respond(transcript: Transcript, fields: TranscriptionForm) -> Response:
    segments = transcript.segments
    match fields.response_format:
        case "text":
            return Response(format_text(segments) + "\n", media_type=_TEXT)
        case "srt":
            return Response(format_srt(segments), media_type=_SRT)
        case "vtt":
            return Response(format_vtt(segments), media_type=_VTT)
        case "json":
            body = {"text": format_text(segments)}
        case "verbose_json":
            granularities = fields.timestamp_granularities
            body = verbose_json(segments, transcript.duration, transcript.model, granularities)
    return Response(orjson.dumps(body), media_type="application/json")
