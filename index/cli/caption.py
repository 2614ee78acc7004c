"""`vitascope caption`: write captions of the clips of files."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from vitascope.cli.options import add_inference_options, server_url
from vitascope.cli.output import ProgressBar, plain_table
from vitascope.errors import InvalidInput, MediaError, VitascopeError
from vitascope.text_format import format_span

EPILOG = """\
A caption is a sentence that the model generates word by word; it can be wrong. Each has the mean logarithm of the
probabilities of its tokens, which is at most 0. The bundle needs the task `captioning` (`vitascope bundle inspect`).

examples:
  vitascope caption clip.mp4
  vitascope caption film.mp4 --clips 4
  vitascope caption *.jpg --beams 5 --count 3 --json
  vitascope caption clip.mp4 --beams 1 --temperature 0.8 --count 5 --seed 2
  vitascope caption clip.mp4 --beams 8 --temperature 0.7 --rerank
  vitascope caption clip.mp4 --server http://127.0.0.1:8000
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
        metavar="N",
        help="sentences kept at each token (beam search); 1: greedy search (default: 3)",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        metavar="T",
        help="sample tokens, the more varied the higher; needs --beams 1, or --rerank (default: 0, no sampling)",
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
    parser.add_argument(
        "--rerank",
        action="store_true",
        help="order all beams, and with --temperature as many samples, by how well they match the clip, too; the "
        "bundle needs the task `matching`",
    )
    add_inference_options(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    if args.clips is not None and not 0 < args.clips < math.inf:
        raise InvalidInput(f"--clips: {args.clips:g}; finite seconds above 0 were expected")
    names = ("beams", "temperature", "top_p", "seed", "max_tokens", "count", "rerank")
    options: dict[str, Any] = {name: value for name in names if (value := getattr(args, name)) is not None}
    if (server := server_url(args)) is not None:
        from index.cli.uploads import per_file_errors
        from vitascope.client import Client
        from vitascope.media.file import MediaFile

        segmentation = None if args.clips is None else {"rule": "windows", "length": args.clips, "overlap": 0}

        def request_captions(file: Path) -> Sequence[Mapping[str, Any]]:
            # A file that cannot be read, or is over a limit of the service, is an error of that file alone.
            with MediaFile.open(file), per_file_errors(file):
                response = client.generate_captions_for_file(
                    file, segmentation=segmentation, model=args.model, **options
                )
                return response["clips"]

        with Client(server) as client:
            return _caption_files(args.files, request_captions, (MediaError, InvalidInput))
    from index.clips.segmentation import window_spans
    from vitascope.captions import CaptionOptions, caption_file
    from vitascope.media.limits import read_media_limits
    from vitascope.model import Model

    decoding = CaptionOptions(**options)
    model = Model.open(args.bundle, threads=args.threads, device=args.device, engine=args.engine)
    _ = model.caption_decoder
    limits = read_media_limits(os.environ)

    def caption(file: Path) -> list[dict[str, Any]]:
        duration = model.decoder.probe(file, limits).duration
        spans = [(0.0, duration)] if args.clips is None else window_spans(duration, args.clips)
        return [asdict(clip) for clip in caption_file(model, file, spans, decoding, limits)]

    return _caption_files(args.files, caption)


def _caption_files(
    files: Sequence[Path],
    caption: Callable[[Path], Sequence[Mapping[str, Any]]],
    file_errors: tuple[type[VitascopeError], ...] = (MediaError,),
) -> dict[str, Any]:
    """Caption the clips of each file; with several files, one of ``file_errors`` does not stop the others."""
    results: list[dict[str, Any]] = []
    with ProgressBar("Captioning") as progress:
        for number, file in enumerate(files):
            try:
                results.append({"file": str(file), "clips": caption(file)})
            except file_errors as error:
                if len(files) == 1:
                    raise
                results.append({"file": str(file), "error": str(error)})
            progress.update(number + 1, len(files))
    return {"files": results, "failed": sum("error" in result for result in results)}


def show(result: dict[str, Any], console: Console) -> None:
    has_several = len(result["files"]) > 1
    clips = [clip for entry in result["files"] for clip in entry.get("clips", ())]
    has_match = any(caption.get("match") is not None for clip in clips for caption in clip["captions"])
    match_column = [">match"] if has_match else []
    table = plain_table(*(["file"] if has_several else []), "time", ">log-probability", *match_column, "caption")
    for entry in result["files"]:
        file = [escape(entry["file"])] if has_several else []
        for clip in entry.get("clips", ()):
            for caption in clip["captions"]:
                span = format_span(clip["start"], clip["end"])
                match = [f"{caption['match']:.2f}"] if has_match else []
                table.add_row(*file, span, f"{caption['log_probability']:.2f}", *match, escape(caption["text"]))
        if "error" in entry:
            table.add_row(*file, "", "", *([""] if has_match else []), f"failed: {escape(entry['error'])}")
    console.print(table)


COMMANDS = {"caption": (add_arguments, run, show)}
