"""`vitascope read-text`: recognise the text on screen in a video or picture (OCR)."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from vitascope.cli.completion import no_completion
from vitascope.cli.options import add_device
from vitascope.cli.output import ProgressBar, plain_table, print_document
from vitascope.text_format import format_score, format_span

EPILOG = """\
Models:
  rapidocr   Latin with diacritics, Chinese and Japanese, part of the extra `ocr`
  FOLDER     another PP-OCR model; see docs/screen_text.md

examples:
  vitascope read-text talk.mp4
  vitascope read-text talk.mp4 --interval 0.5 --json
  vitascope read-text talk.mp4 --format srt > talk.srt
  vitascope read-text slide.png
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("file", type=Path, metavar="FILE", help="video or picture")
    no_completion(
        parser.add_argument(
            "--model",
            metavar="MODEL",
            help="`rapidocr`, or the folder of a model (VITASCOPE_TEXT_READER; default: rapidocr)",
        )
    )
    parser.add_argument(
        "--interval",
        type=float,
        default=1.0,
        metavar="SECONDS",
        help="seconds between the frames that are examined (default: %(default)s)",
    )
    parser.add_argument(
        "--format", choices=("text", "srt", "vtt"), default="text", help="format of the output (default: %(default)s)"
    )
    add_device(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    from vitascope.media.limits import read_media_limits
    from vitascope.screen_text.reading import DEFAULT_MODEL, open_text_reader, read_screen_text

    limits = read_media_limits(os.environ)
    model = args.model or os.environ.get("VITASCOPE_TEXT_READER") or DEFAULT_MODEL
    reader = open_text_reader(model, threads=args.threads, device=args.device)
    with ProgressBar("Reading") as progress:
        spans = read_screen_text(
            reader,
            args.file,
            limits,
            interval=args.interval,
            on_progress=lambda second, duration: progress.update(round(second), round(duration)),
        )
    return {
        "file": str(args.file),
        "model": reader.name,
        "interval": args.interval,
        "format": args.format,
        "lines": [asdict(span) for span in spans],
    }


def show(result: dict[str, Any], console: Console) -> None:
    if result["format"] == "text":
        table = plain_table("time", ">confidence", "text")
        for line in result["lines"]:
            span = format_span(line["start"], line["end"])
            table.add_row(span, format_score(line["confidence"]), escape(line["text"]))
        console.print(table if result["lines"] else "No text")
        return
    from vitascope.speech.interface import SpeechSegment
    from vitascope.speech.transcript_formats import format_srt, format_vtt

    segments = [SpeechSegment(line["start"], line["end"], line["text"]) for line in result["lines"]]
    text = format_srt(segments) if result["format"] == "srt" else format_vtt(segments)
    print_document(text, console)


COMMANDS = {"read-text": (add_arguments, run, show)}
