"""What a decoding process can be asked to do, and how it puts the results into a message."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple
from typing import Any, NamedTuple

import av
from PIL import GifImagePlugin, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from vitascope.media.file import MediaFile
from vitascope.media.limits import MediaLimits
from vitascope.sandbox.decoder import IN_PROCESS
from vitascope.sandbox.framing import Buffer, Header

Result = tuple[Any, list[Buffer]]
"""What goes into the header as JSON, and the blobs after it."""
Run = Callable[[Header], Result]

_PLUGINS = (GifImagePlugin, JpegImagePlugin, PngImagePlugin, WebPImagePlugin)
"""Imported here, before memory is limited, so that the first picture is as fast as the others."""


class WantedStream(NamedTuple):
    """A frame stream, as a message carries it."""

    name: str
    frames: int
    height: int
    width: int
    placement: str
    fit: str
    resample: str = "decoder"
    shortest_edge: int | None = None
    margin: str = "down"
    longest_edge: int | None = None
    multiple: int = 1
    shows: str = "picture"


def check_decoders() -> None:
    """Raise whatever keeps the decoders from working in this process at all."""
    for plugin in _PLUGINS:
        assert plugin.__name__
    av.CodecContext.create("h264", "r")


def run(request: Header) -> Result:
    """Do what is asked for with the file of the request. Raises as the methods of ``Decoder``."""
    return OPERATIONS[request["do"]](request)


def _probe(request: Header) -> Result:
    return list(astuple(IN_PROCESS.probe(_file(request), _limits(request)))), []


def _sample(request: Header) -> Result:
    streams = [WantedStream(*fields) for fields in request["streams"]]
    sampled = IN_PROCESS.sample(
        _file(request),
        streams,
        [(start, end) for start, end in request["clips"]],
        _limits(request),
        threads=request["threads"],
        thumbnails=request["thumbnails"],
    )
    frames: list[Buffer] = [sampled.frames[stream.name].data for stream in streams]
    pictures: Sequence[Buffer] = [jpeg or b"" for jpeg in sampled.thumbnails] if request["thumbnails"] else []
    return None, [*frames, *pictures]


def _sample_part(request: Header) -> Result:
    streams = [WantedStream(*fields) for fields in request["streams"]]
    span, frames = IN_PROCESS.sample_part(
        _file(request), streams, request["start"], request["end"], _limits(request), threads=request["threads"]
    )
    return list(span), [frames[stream.name].data for stream in streams]


def _thumbnail(request: Header) -> Result:
    return None, [IN_PROCESS.thumbnail(_file(request), request["second"], request["side"], _limits(request))]


def _shot_starts(request: Header) -> Result:
    return IN_PROCESS.shot_starts(_file(request), request["duration"], _limits(request)), []


def _subtitle_streams(request: Header) -> Result:
    return [list(astuple(stream)) for stream in IN_PROCESS.subtitle_streams(_file(request), _limits(request))], []


def _stream_cues(request: Header) -> Result:
    cues = IN_PROCESS.stream_cues(_file(request), request["index"], _limits(request))
    return [list(astuple(cue)) for cue in cues], []


OPERATIONS: dict[str, Run] = {
    "probe": _probe,
    "sample": _sample,
    "sample_part": _sample_part,
    "thumbnail": _thumbnail,
    "shot_starts": _shot_starts,
    "subtitle_streams": _subtitle_streams,
    "stream_cues": _stream_cues,
}


def _file(request: Header) -> MediaFile:
    file: MediaFile = request["file"]
    return file


def _limits(request: Header) -> MediaLimits:
    stated = dict(request["limits"])
    return MediaLimits(
        **{**stated, "containers": frozenset(stated["containers"]), "codecs": frozenset(stated["codecs"])}
    )
