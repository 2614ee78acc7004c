"""``python -m vitascope.sandbox.worker_main``: sandboxed process that decodes one file at a time.

``serve`` is the main loop of all sandboxed processes, also of ``vitascope.sandbox.recognition_main``.

Standard input is the socket for requests and responses. The process confines itself before it loads a decoder. It opens
no media files: it receives an open file descriptor with each request.
"""

from __future__ import annotations

import gc
import os
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vitascope.errors import VitascopeError
from vitascope.media.file import MediaFile
from vitascope.sandbox.isolation import confine, limit_cpu_seconds, limit_resources
from vitascope.sandbox.protocol import Buffer, Header, ProtocolError, receive_request, send

INTERNAL_ERROR = "internal_error"
"""Error code in the response for an unexpected exception (a bug)."""
OUT_OF_MEMORY = "media_too_large"
_MAX_MESSAGE = 2000


Execute = Callable[[Header, MediaFile, Callable[[float], None]], tuple[Any, list[Buffer]]]
"""Function (header, file, on_progress) that executes a request on a file. It calls ``on_progress`` with the completed
fraction, 0 to 1, and returns the value and blobs of the response.
"""


def main() -> None:
    """Decode files until the other end closes the socket."""
    serve(_load_decoders, _execute)


def serve(load: Callable[[Header], Header], execute: Execute) -> None:
    """Confine this process and serve requests until the other end closes the socket.

    Args:
        load: Loads libraries and models, after the process is confined and before its memory is limited. Its argument
            is the setup of the process; it returns what is reported as loaded. A VitascopeError is reported to the
            other end, which then starts no more processes.
        execute: Executes a request.
    """
    channel = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDWR)
    setup, _ = receive_request(channel)
    os.nice(setup["niceness"])
    measures = confine(setup["parent"])
    try:
        loaded = load(setup)
    except VitascopeError as error:
        send(channel, {"error": error.code, "message": str(error)[:_MAX_MESSAGE]})
        return
    gc.freeze()  # exclude start-up objects from later collections
    measures += limit_resources(setup["memory_bytes"])
    send(channel, {"measures": measures, "loaded": loaded})
    for standard_stream in (0, 1, 2):  # a compromised worker must not write to the service's log
        os.dup2(null, standard_stream)
    while True:
        try:
            request, descriptor = receive_request(channel)
        except EOFError:
            return
        limit_cpu_seconds(request["cpu_seconds"])
        header, blobs = _respond(execute, request, descriptor, lambda share: send(channel, {"progress": share}))
        send(channel, header, blobs)
        del blobs
        gc.collect()  # PyAV keeps some frames in reference cycles; free their memory for the next file


def load_decoders() -> None:
    """Import all decoders. Raises an exception if they do not work."""
    import av
    from PIL import AvifImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin, WebPImagePlugin  # noqa: F401

    import vitascope.sandbox.operations  # noqa: F401
    from vitascope.media.image import has_heif

    has_heif()
    av.CodecContext.create("h264", "r")


def _load_decoders(setup: Header) -> Header:
    load_decoders()
    return {}


def _execute(header: Header, file: MediaFile, on_progress: Callable[[float], None]) -> tuple[Any, list[Buffer]]:
    from vitascope.sandbox.operations import parse_request

    request = parse_request(header)
    return request.encode_result(request.run(file))


def _respond(
    execute: Execute, header: Header, descriptor: int | None, on_progress: Callable[[float], None]
) -> tuple[Header, list[Buffer]]:
    name = header["file_name"]
    try:
        if descriptor is None:
            raise ProtocolError("a file was expected with the request")
        with MediaFile(descriptor, Path(name)) as file:
            value, blobs = execute(header, file, on_progress)
        return {"value": value}, blobs
    except VitascopeError as error:
        return {"error": error.code, "message": str(error)[:_MAX_MESSAGE]}, []
    except MemoryError:
        return {"error": OUT_OF_MEMORY, "message": f"{name}: decoding it needs more memory than is allowed"}, []
    except Exception as error:
        message = f"{name}: cannot be decoded: {type(error).__name__}: {error}"[:_MAX_MESSAGE]
        return {"error": INTERNAL_ERROR, "message": message, "traceback": traceback.format_exc()[-_MAX_MESSAGE:]}, []


if __name__ == "__main__":
    main()
