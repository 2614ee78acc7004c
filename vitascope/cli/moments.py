"""`vitascope moments`: find the spans of a video in which sentences are true."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from vitascope.cli.completion import no_completion
from vitascope.cli.options import add_inference_options, server_url
from vitascope.cli.output import plain_table
from vitascope.text_format import format_score, format_tenths

EPILOG = """\
Each sentence gets its best moments: spans of the video, finer than the clips that a search returns, with scores from 0
to 1. There are moments even if the sentence is never true: their scores are low. --json adds the probability
that the sentence is true in each window of the video, half a second with the included bundle. The bundle needs the
task `moments` (`vitascope bundle inspect`).

examples:
  vitascope moments film.mp4 "a red square moves left" "a star rotates"
  vitascope moments film.mp4 "a dog runs" --top 1 --json
  vitascope moments film.mp4 "a dog runs" --server http://127.0.0.1:8000
"""
DEFAULT_TOP = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("file", type=Path, metavar="FILE", help="video or image")
    no_completion(parser.add_argument("texts", nargs="+", metavar="SENTENCE", help="a sentence, in quotes"))
    parser.add_argument(
        "--top", type=int, metavar="N", help=f"number of moments of each sentence (default: {DEFAULT_TOP})"
    )
    add_inference_options(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    if (server := server_url(args)) is not None:
        from vitascope.client import Client

        with Client(server) as client:
            response = client.find_moments_in_file(args.file, args.texts, top=args.top, model=args.model)
            return {"file": str(args.file), **response}
    from dataclasses import asdict

    from vitascope.media.limits import read_media_limits
    from vitascope.model import Model
    from vitascope.moments import aligned_windows, embed_windows

    model = Model.open(args.bundle, threads=args.threads, device=args.device, engine=args.engine)
    limits = read_media_limits(os.environ)
    seconds = model.moment_windows.window_seconds
    spans = aligned_windows(model.decoder.probe(args.file, limits).duration, seconds)
    top = DEFAULT_TOP if args.top is None else args.top
    results = model.find_moments(args.texts, embed_windows(model, args.file, spans, limits), spans, top)
    return {  # as in the response of a service
        "file": str(args.file),
        "video": None,
        "start": 0.0,
        "end": spans[-1][1],
        "times": results[0].times.round(3).tolist(),
        "results": [
            {
                "text": text,
                "moments": [asdict(moment) for moment in result.moments],
                "saliency": result.saliency.astype(float).round(4).tolist(),
            }
            for text, result in zip(args.texts, results, strict=True)
        ],
    }


def show(result: dict[str, Any], console: Console) -> None:
    table = plain_table(">score", ">from", ">to", "sentence")
    for entry in result["results"]:
        for rank, moment in enumerate(entry["moments"]):
            table.add_row(
                format_score(moment["score"]),
                format_tenths(moment["start"]),
                format_tenths(moment["end"]),
                escape(entry["text"]),
                style="bold" if rank == 0 else None,
            )
    console.print(table)


COMMANDS = {"moments": (add_arguments, run, show)}
