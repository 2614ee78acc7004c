"""`vitascope chapters`: divide a video into chapters with titles."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from vitascope.cli.options import add_inference_options, server_url
from vitascope.cli.output import check_output, print_document
from vitascope.durable_files import atomic_path
from vitascope.errors import StorageError

if TYPE_CHECKING:
    from vitascope.chapters import ChapterOptions

EPILOG = """\
The video is cut into shots, or into windows where it has no cuts. Neighbours that show similar things are merged, and
the model writes a caption of the most typical shot of each chapter, which can be wrong. The bundle needs the tasks
`retrieval` and `captioning` (`vitascope bundle inspect`).

formats:
  text         a line per chapter: 0:00 title
  vtt          WebVTT, for <track kind="chapters">
  json         start, end, title and log-probability
  youtube      as text; an error if YouTube would ignore it: it needs three chapters of at least 10 s
  ffmetadata   for ffmpeg -i film.mp4 -i chapters.txt -map_chapters 1 -codec copy out.mp4

examples:
  vitascope chapters film.mp4
  vitascope chapters film.mp4 --format vtt --out chapters.vtt
  vitascope chapters film.mp4 --min-seconds 0 --similarity 1 --max-chapters 8
  vitascope chapters film.mp4 --min-seconds 30 --server http://127.0.0.1:8000
"""
FORMATS = ("text", "vtt", "json", "youtube", "ffmetadata")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("file", type=Path, metavar="FILE", help="video file")
    parser.add_argument(
        "--min-seconds",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="merge shorter chapters with a neighbour (default: %(default)s)",
    )
    parser.add_argument(
        "--similarity",
        type=float,
        metavar="COSINE",
        help="merge neighbours with at least this similarity (default: by the similarities in the video)",
    )
    parser.add_argument("--max-chapters", type=int, metavar="N", help="number of chapters at most (default: 20)")
    parser.add_argument("--format", choices=FORMATS, default="text", help="format (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="file to write (default: standard output)")
    add_inference_options(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    from vitascope.chapters import ChapterOptions

    check_output("--out", args.out, args.file)
    max_chapters = ChapterOptions.max_chapters if args.max_chapters is None else args.max_chapters
    options = ChapterOptions(args.min_seconds, args.similarity, max_chapters)
    if (server := server_url(args)) is None:
        chapters = _divide(args, options)
    else:
        from vitascope.client import Client

        with Client(server) as client:
            requested = {**asdict(options), "max_chapters": args.max_chapters}  # None: the default of the service
            response = client.generate_chapters_for_file(args.file, **requested, model=args.model, progress=True)
            chapters = [dict(chapter) for chapter in response["chapters"]]
    result = {"file": str(args.file), "format": args.format, "out": args.out, "chapters": chapters}
    document = _format(result)  # also with --json: an error if YouTube would ignore the chapters
    if args.out is not None:
        try:
            with atomic_path(args.out) as path:
                path.write_text(document, "utf-8")
        except OSError as error:
            raise StorageError(f"--out: {args.out}: {error.strerror or error}") from error
    return result


def _divide(args: argparse.Namespace, options: ChapterOptions) -> list[dict[str, Any]]:
    from index.clips.rules import Segmentation
    from index.clips.segmentation import segment_file
    from vitascope.chapters import chapter_file
    from vitascope.media.limits import read_media_limits
    from vitascope.model import Model

    model = Model.open(args.bundle, threads=args.threads, device=args.device, engine=args.engine)
    _ = model.caption_decoder  # before anything is decoded
    limits = read_media_limits(os.environ)
    duration = model.decoder.probe(args.file, limits).duration
    clips = segment_file(args.file, duration, Segmentation(rule="auto"), limits, model.decoder, policy=None).spans
    return [asdict(chapter) for chapter in chapter_file(model, args.file, clips, options, limits)]


def _format(result: Mapping[str, Any]) -> str:
    from vitascope.chapters import FORMATTERS, Chapter

    return FORMATTERS[result["format"]]([Chapter(**chapter) for chapter in result["chapters"]])


def show(result: dict[str, Any], console: Console) -> None:
    if result["out"] is None:
        print_document(_format(result), console)
    else:
        console.print(f"{escape(str(result['out']))}: {len(result['chapters'])} chapters")


COMMANDS = {"chapters": (add_arguments, run, show)}
