"""`vitascope caption`: write captions of the clips of files."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from vitascope.cli.options import add_bundle, add_engine
from vitascope.cli.output import ProgressBar, format_span, plain_table
from vitascope.errors import MediaError

EPILOG = """\
A caption is a sentence that the model generates word by word; it can be wrong. Each has the mean logarithm of the
probabilities of its tokens, which is at most 0. The bundle needs the task `captioning` (`vitascope bundle inspect`).

examples:
  vitascope caption clip.mp4
  vitascope caption film.mp4 --clips 4
  vitascope caption *.jpg --beams 5 --count 3 --json
  vitascope caption clip.mp4 --beams 1 --temperature 0.8 --count 5 --seed 2
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="video, image, or sound file")
    parser.add_argument(
        "--clips",
        type=float,
        metavar="SECONDS",
        help="write captions of each clip of this length (default: of the whole file)",
    )
    parser.add_argument(
        "--beams",
        type=int,
        default=3,
        metavar="N",
        help="sentences kept at each token (beam search); 1: greedy search (default: %(default)s)",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        metavar="T",
        help="sample tokens, the more varied the higher; needs --beams 1 (default: 0, no sampling)",
    )
    parser.add_argument(
        "--top-p",
        type=float,
        default=1.0,
        metavar="P",
        help="sample from the most probable tokens that together have this probability (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of sampling (default: %(default)s)")
    parser.add_argument(
        "--max-tokens", type=int, metavar="N", help="tokens of a caption (default: the bundle's maximum)"
    )
    parser.add_argument("--count", type=int, default=1, metavar="N", help="captions of a clip (default: %(default)s)")
    add_bundle(parser)
    add_engine(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    from vitascope.captions import CaptionOptions, caption_file
    from vitascope.errors import InvalidInput
    from vitascope.media.limits import read_media_limits
    from vitascope.model import Model
    from vitascope.moments import window_spans

    if args.clips is not None and args.clips <= 0:
        raise InvalidInput(f"--clips: {args.clips:g}; seconds above 0 were expected")
    options = CaptionOptions(args.beams, args.temperature, args.top_p, args.seed, args.max_tokens, args.count)
    model = Model.open(args.bundle, threads=args.threads, device=args.device, engine=args.engine)
    _ = model.caption_decoder
    limits = read_media_limits(os.environ)
    results: list[dict[str, Any]] = []
    with ProgressBar("Captioning") as progress:
        for number, file in enumerate(args.files):
            try:
                duration = model.decoder.probe(file, limits).duration
                spans = window_spans(duration, args.clips or max(duration, 1.0))
                clips = caption_file(model, file, spans, options, limits)
                results.append({"file": str(file), "clips": [asdict(clip) for clip in clips]})
            except MediaError as error:
                if len(args.files) == 1:
                    raise
                results.append({"file": str(file), "error": str(error)})
            progress.update(number + 1, len(args.files))
    return {"files": results, "failed": sum("error" in result for result in results)}


def show(result: dict[str, Any], console: Console) -> None:
    has_several = len(result["files"]) > 1
    table = plain_table(*(["file"] if has_several else []), "time", ">log-probability", "caption")
    for entry in result["files"]:
        file = [escape(entry["file"])] if has_several else []
        for clip in entry.get("clips", ()):
            for caption in clip["captions"]:
                span = format_span(clip["start"], clip["end"])
                table.add_row(*file, span, f"{caption['log_probability']:.2f}", escape(caption["text"]))
        if "error" in entry:
            table.add_row(*file, "", "", f"failed: {escape(entry['error'])}")
    console.print(table)


COMMANDS = {"caption": (add_arguments, run, show)}
