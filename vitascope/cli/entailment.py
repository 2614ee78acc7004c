"""`vitascope entailment`: classify whether a video or image entails or contradicts sentences."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from vitascope.cli.completion import no_completion
from vitascope.cli.options import add_inference_options, server_url
from vitascope.cli.output import USED_SOUND, plain_table
from vitascope.entailment import LABELS

EPILOG = """\
entailed: the file shows that the sentence is true; contradicted: the file shows that it is false; neutral: neither. The
bundle needs the task `entailment` (`vitascope bundle inspect`).

examples:
  vitascope entailment clip.mp4 "a red ball moves left"
  vitascope entailment room.jpg "a lamp is on the table" "the table is empty" --json
  vitascope entailment clip.mp4 "a red ball moves left" --server http://127.0.0.1:8000
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("file", type=Path, metavar="FILE", help="video or image")
    no_completion(parser.add_argument("hypotheses", nargs="+", metavar="SENTENCE", help="a sentence, in quotes"))
    add_inference_options(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    if (server := server_url(args)) is not None:
        from vitascope.client import Client

        with Client(server) as client:
            response = client.classify_entailment_of_file(args.file, args.hypotheses, model=args.model)
            return {"file": str(args.file), **response}
    from vitascope.entailment import classify_file
    from vitascope.media.limits import read_media_limits
    from vitascope.model import Model

    model = Model.open(args.bundle, threads=args.threads, device=args.device, engine=args.engine)
    return {"file": str(args.file), **classify_file(model, args.file, args.hypotheses, read_media_limits(os.environ))}


def show(result: dict[str, Any], console: Console) -> None:
    table = plain_table("class", *(f">{label}" for label in LABELS), "sentence")
    for each in result["results"]:
        probabilities = (f"{each['probabilities'][label]:.3f}" for label in LABELS)
        table.add_row(each["label"], *probabilities, escape(each["hypothesis"]))
    console.print(table)
    if "audio" in result["modalities"]:
        console.print(USED_SOUND)


COMMANDS = {"entailment": (add_arguments, run, show)}
