"""``python -m vitascope.sandbox.recognition_main``: sandboxed process that recognises speech or text on screen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vitascope.media.file import MediaFile
from vitascope.sandbox.protocol import Buffer, Header
from vitascope.sandbox.worker_main import load_decoders, serve


def main() -> None:
    """Load the recognition engine of the setup, and serve requests until the other end closes the socket."""
    engine: Any = None

    def load(setup: Header) -> Header:
        nonlocal engine
        from vitascope.sandbox.recognition import open_engine

        load_decoders()
        engine = open_engine(setup["kind"], setup["model"], setup["threads"])
        return {"name": engine.name}

    def execute(header: Header, file: MediaFile, on_progress: Callable[[float], None]) -> tuple[Any, list[Buffer]]:
        from vitascope.sandbox.operations import parse_request
        from vitascope.sandbox.recognition import OPERATIONS, RecognitionTask

        request = parse_request(header, OPERATIONS)
        assert isinstance(request, RecognitionTask)
        return request.encode_result(request.recognize(engine, file, on_progress))

    serve(load, execute)


if __name__ == "__main__":
    main()
