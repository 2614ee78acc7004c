"""`vitascope ground`: find the object that a phrase describes in a picture, or in the middle frame of a video."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from vitascope.cli.options import add_bundle, add_engine
from vitascope.cli.output import check_output, plain_table
from vitascope.durable_files import atomic_path
from vitascope.errors import StorageError

DRAWN_SIDE = 1280
"""Longer side of the picture that is written, in pixels."""
EPILOG = """\
There is always a box; the score, 0 to 1, is low if the object is not there. For a video, the frame in the middle of the
part is used. The bundle needs the task `grounding` (`vitascope bundle inspect`).

examples:
  vitascope ground photo.jpg "the brown dog"
  vitascope ground clip.mp4 "a red ball" --start 4 --end 8 --picture ball.png
  vitascope ground photo.jpg "the left car" --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("file", type=Path, metavar="FILE", help="video or image file")
    parser.add_argument("phrase", metavar="PHRASE", help="description of the object, in quotes")
    parser.add_argument("--start", type=float, metavar="SECONDS", help="beginning of the part (default: 0)")
    parser.add_argument("--end", type=float, metavar="SECONDS", help="end of the part (default: of the file)")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="write the frame with heat map and box as a PNG")
    add_bundle(parser)
    add_engine(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    from vitascope.grounding import draw
    from vitascope.media.limits import read_media_limits
    from vitascope.media.sampling import resolve_span
    from vitascope.model import Model

    check_output("--picture", args.picture, args.file)
    model = Model.open(args.bundle, threads=args.threads, device=args.device, engine=args.engine)
    _ = model.grounding_grid  # before anything is decoded
    limits = read_media_limits(os.environ)
    info = model.decoder.probe(args.file, limits)
    start, end = resolve_span(info.duration, args.start, args.end)
    [place] = model.ground([args.phrase], model.embed_video_file(args.file, [(start, end)], limits).visual_tokens)
    time = (start + end) / 2
    if args.picture is not None:
        drawn = draw(model.decoder.thumbnail(args.file, time, DRAWN_SIDE, limits), place)
        try:
            with atomic_path(args.picture) as path:
                drawn.save(path, "PNG")
        except OSError as error:
            raise StorageError(f"--picture: {args.picture}: {error.strerror or error}") from error
    x, y = place.point
    return {
        "file": str(args.file),
        "phrase": args.phrase,
        "time": time,
        "score": place.score,
        "point": {"x": x, "y": y},
        "box": place.box._asdict(),
        "pixels": place.box.in_pixels(info.width, info.height),
        "heat_map": place.heat_map.astype(float).round(3).tolist(),
    } | ({} if args.picture is None else {"picture": str(args.picture)})


def show(result: dict[str, Any], console: Console) -> None:
    table = plain_table("phrase", ">score", ">left", ">top", ">right", ">bottom")
    table.add_row(escape(result["phrase"]), f"{result['score']:.2f}", *map(str, result["pixels"].values()))
    console.print(table)
    if "picture" in result:
        console.print(f"written to {escape(result['picture'])}", soft_wrap=True)


COMMANDS = {"ground": (add_arguments, run, show)}
