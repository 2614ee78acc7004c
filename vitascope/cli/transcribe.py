"""`vitascope transcribe`: transcribe the speech of a video or sound file."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from vitascope.cli.completion import no_completion
from vitascope.cli.options import add_device, add_server, server_url
from vitascope.cli.output import ProgressBar, check_output, print_document
from vitascope.durable_files import atomic_path
from vitascope.errors import InvalidInput, StorageError

FORMATS = ("text", "json", "srt", "vtt", "verbose_json")

EPILOG = """\
Models:
  pocketsphinx   English, part of the extra `speech`; for a first try: most words are wrong
  FOLDER         a Whisper, Moonshine, Parakeet, SenseVoice or Zipformer model for sherpa-onnx; see docs/speech.md

examples:
  vitascope transcribe talk.mp4
  vitascope transcribe talk.mp4 --model ~/models/sherpa-onnx-whisper-small --language de
  vitascope transcribe talk.mp4 --format srt --out talk.srt
  vitascope transcribe talk.mp4 --format verbose_json
  vitascope transcribe talk.mp4 --server http://127.0.0.1:8000
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("file", type=Path, metavar="FILE", help="video or sound file")
    no_completion(
        parser.add_argument(
            "--model",
            metavar="MODEL",
            help="`pocketsphinx`, or the folder of a model (VITASCOPE_SPEECH_MODEL; default: pocketsphinx); with "
            "--server: the name of its recogniser (default: its recogniser)",
        )
    )
    no_completion(
        parser.add_argument(
            "--language", metavar="CODE", help="language that is spoken, such as `de` (default: the model detects it)"
        )
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="text",
        help="format of the transcript (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="file to write (default: standard output)")
    add_device(parser)
    add_server(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    check_output("--out", args.out, args.file)
    # Without a server, --model is a local model here, which server_url() would reject.
    server = None if args.server is None else server_url(args)
    transcript = _transcribe_locally(args) if server is None else _transcribe_remotely(args, server)
    if args.out is not None:
        try:
            with atomic_path(args.out) as path:
                path.write_text(_format(transcript, args.format), "utf-8")
        except OSError as error:
            raise StorageError(f"--out: {args.out}: {error.strerror or error}") from error
    return {"file": str(args.file), "format": args.format, "out": args.out, **transcript}


def _transcribe_remotely(args: argparse.Namespace, server: str) -> dict[str, Any]:
    from vitascope.client import Client

    with Client(server) as client:
        response = client.transcribe(
            args.file, model=args.model, language=args.language, granularities=("segment", "word"), progress=True
        )
        return dict(response)


def _transcribe_locally(args: argparse.Namespace) -> dict[str, Any]:
    from vitascope.media.file import MediaFile
    from vitascope.media.limits import read_media_limits
    from vitascope.sandbox.decoder import IN_PROCESS
    from vitascope.speech.interface import POCKETSPHINX, open_recognizer, transcribe_file
    from vitascope.speech.transcript_formats import verbose_json

    if args.threads < 0:
        raise InvalidInput(f"--threads: {args.threads}; 0 or more was expected")
    limits = read_media_limits(os.environ)
    with MediaFile.open(args.file) as file:
        duration = IN_PROCESS.probe(file, limits).duration
        model = args.model or os.environ.get("VITASCOPE_SPEECH_MODEL") or POCKETSPHINX
        recognizer = open_recognizer(model, threads=args.threads, device=args.device)
        segments = []
        with ProgressBar("Transcribing") as progress:
            for segment in transcribe_file(recognizer, file, language=args.language, limits=limits):
                segments.append(segment)
                progress.update(round(segment.end), round(duration))
    return verbose_json(segments, duration, recognizer.name, ("segment", "word"))


def _format(transcript: Mapping[str, Any], name: str) -> str:
    """Return a transcript, in the shape of ``verbose_json``, in a format."""
    from vitascope.speech.interface import SpeechSegment
    from vitascope.speech.transcript_formats import format_srt, format_vtt

    if name == "text":
        return f"{transcript['text']}\n"
    if name in ("json", "verbose_json"):
        content = transcript if name == "verbose_json" else {"text": transcript["text"]}
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    segments = [SpeechSegment(each["start"], each["end"], each["text"]) for each in transcript["segments"]]
    return format_srt(segments) if name == "srt" else format_vtt(segments)


def show(result: dict[str, Any], console: Console) -> None:
    if result["out"] is not None:
        console.print(f"{escape(str(result['out']))}: {len(result['segments'])} segments")
        return
    transcript = {key: value for key, value in result.items() if key not in ("file", "format", "out")}
    print_document(_format(transcript, result["format"]), console)


COMMANDS = {"transcribe": (add_arguments, run, show)}
