"""`vitascope ask FILE QUESTION`: answer a question about a video or picture."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from vitascope.commands.options import add_bundle, add_engine, add_server
from vitascope.commands.output import plain_table

EPILOG = """\
Answers come from the bundle's vocabulary (`vitascope bundle info` says how many it knows), best first, each
with the probability the model gives it. A low first probability means that the model does not know.

examples:
  vitascope ask clip.mp4 "what color is the circle?"
  vitascope ask room.jpg "what is on the table?" --top 3
  vitascope ask clip.mp4 "does the square move left?" --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("file", type=Path, metavar="FILE", help="video or picture")
    parser.add_argument("question", metavar="QUESTION", help="a question, in quotes")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="answers to give (default: %(default)s)")
    add_bundle(parser)
    add_engine(parser)
    add_server(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    if args.server:
        from vitascope.client import Client

        with Client(args.server) as client:
            return {"file": str(args.file), **client.ask_file(args.file, args.question, top=args.top)}
    from vitascope.model import Model

    model = Model.open(args.bundle, threads=args.threads, device=args.device)
    answers = model.answer([args.question], model.embed_file(args.file).visual_tokens[:1], top=args.top)[0]
    return {
        "file": str(args.file),
        "question": args.question,
        "answers": [{"text": a.text, "probability": a.probability} for a in answers],
    }


def show(result: dict[str, Any], console: Console) -> None:
    table = plain_table(">probability", "answer")
    for position, answer in enumerate(result["answers"]):
        table.add_row(f"{answer['probability']:.3f}", escape(answer["text"]), style="bold" if position == 0 else None)
    console.print(table)


COMMANDS = {"ask": (add_arguments, run, show)}
