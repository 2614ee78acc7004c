"""``python -m vitascope.sandbox.worker_main``: a process that decodes one file at a time for the one that started it.

Standard input is a socket on which it is asked and answers. It confines itself first and loads decoders afterwards. It
opens no media file: the descriptor of each comes with the request.
"""

from __future__ import annotations

import gc
import os
import socket
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from vitascope.errors import VitascopeError
from vitascope.media.file import MediaFile
from vitascope.sandbox.framing import Buffer, Header, receive_request, send
from vitascope.sandbox.isolation import allow_cpu_seconds, confine, limit_resources

if TYPE_CHECKING:
    from vitascope.sandbox.handlers import Run

UNEXPECTED = "unexpected"
TOO_LARGE = "media_too_large"
_MAX_MESSAGE = 2000


def main() -> None:
    """Answer until the other end closes the socket."""
    channel = socket.socket(fileno=os.dup(0))
    quiet = os.open(os.devnull, os.O_RDWR)
    setup, _ = receive_request(channel)
    os.nice(setup["niceness"])
    applied = confine(setup["parent"])
    from vitascope.sandbox import handlers

    handlers.check_decoders()
    gc.freeze()  # what is there now stays: looking for garbage is quick from here on
    applied += limit_resources(setup["memory_bytes"])
    send(channel, {"applied": applied})
    # Whatever takes hold of this process later shall not write into the log of the service.
    for standard in (0, 1, 2):
        os.dup2(quiet, standard)
    while True:
        try:
            request, descriptor = receive_request(channel)
        except EOFError:
            return
        allow_cpu_seconds(request["cpu_seconds"])
        header, blobs = _answer(request, descriptor, handlers.run)
        send(channel, header, blobs)
        del blobs
        gc.collect()  # PyAV ties some frames to themselves; the next file shall find their memory free


def _answer(request: Header, descriptor: int | None, run: Run) -> tuple[Header, list[Buffer]]:
    name = request["name"]
    try:
        if descriptor is None:
            value, blobs = run(request)
        else:
            with MediaFile(descriptor, Path(name)) as file:
                value, blobs = run({**request, "file": file})
        return {"value": value}, blobs
    except VitascopeError as error:
        return {"error": error.code, "message": str(error)[:_MAX_MESSAGE]}, []
    except MemoryError:
        return {"error": TOO_LARGE, "message": f"{name}: decoding it needs more memory than is allowed"}, []
    except Exception as error:
        written = traceback.format_exc()[-_MAX_MESSAGE:]
        message = f"{name}: cannot be decoded: {type(error).__name__}: {error}"[:_MAX_MESSAGE]
        return {"error": UNEXPECTED, "message": message, "traceback": written}, []


if __name__ == "__main__":
    main()
