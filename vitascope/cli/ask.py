"""`vitascope ask`: answer a question about a video or image."""

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

EPILOG = """\
Answers are from the bundle's vocabulary (`vitascope bundle inspect` shows its size), most probable first. Probabilities
are relative to the whole vocabulary, or to the candidates. If the highest probability is low, the model does not know
the answer; --abstain-below sets a minimum.

examples:
  vitascope ask clip.mp4 "what color is the circle?"
  vitascope ask room.jpg "what is on the table?" --top 3
  vitascope ask clip.mp4 "what color is the circle?" --candidate red --candidate blue --abstain-below 0.6
  vitascope ask clip.mp4 "does the square move left?" --json
  vitascope ask clip.mp4 "what color is the circle?" --server http://127.0.0.1:8000
"""
DEFAULT_TOP = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("file", type=Path, metavar="FILE", help="video or image")
    no_completion(parser.add_argument("question", metavar="QUESTION", help="a question, in quotes"))
    parser.add_argument("--top", type=int, metavar="N", help=f"number of answers (default: {DEFAULT_TOP})")
    parser.add_argument(
        "--candidate",
        action="append",
        metavar="ANSWER",
        help="possible answer; may be repeated (default: the whole vocabulary)",
    )
    parser.add_argument(
        "--abstain-below",
        type=float,
        default=0.0,
        metavar="P",
        help="minimum probability of an answer (default: %(default)s)",
    )
    add_inference_options(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    if (server := server_url(args)) is not None:
        from vitascope.client import Client

        with Client(server) as client:
            response = client.ask_file(
                args.file,
                args.question,
                top=args.top,
                candidates=args.candidate,
                abstain_below=args.abstain_below,
                model=args.model,
            )
            return {"file": str(args.file), "modalities": ["visual"], **response}  # older services do not state them
    from dataclasses import asdict

    from vitascope.answering import answer_question
    from vitascope.media.decode import probe
    from vitascope.media.limits import read_media_limits
    from vitascope.modalities import read_audio_tokens, used_modalities
    from vitascope.model import Model

    model = Model.open(args.bundle, threads=args.threads, device=args.device, engine=args.engine)
    limits = read_media_limits(os.environ)
    end = probe(args.file, limits).duration
    audio_tokens = read_audio_tokens(model, args.file, (0.0, end), limits)
    result = answer_question(
        model,
        args.question,
        model.embed_video_file(args.file, [(0.0, end)], limits).visual_tokens,
        top=DEFAULT_TOP if args.top is None else args.top,
        candidates=args.candidate,
        abstain_below=args.abstain_below,
        audio_tokens=audio_tokens,
    )
    return {  # as in the response of a service
        "file": str(args.file),
        "video": None,
        "start": 0.0,
        "end": end,
        "modalities": list(used_modalities(audio_tokens)),
        "question": args.question,
        "answer": result.answer,
        "abstained": result.abstained,
        "answers": [asdict(answer) for answer in result.answers],
        "out_of_vocabulary": result.out_of_vocabulary,
    }


def show(result: dict[str, Any], console: Console) -> None:
    table = plain_table(">probability", "answer")
    for position, answer in enumerate(result["answers"]):
        is_answer = position == 0 and not result["abstained"]
        table.add_row(f"{answer['probability']:.3f}", escape(answer["text"]), style="bold" if is_answer else None)
    if result["abstained"]:
        reason = "all probabilities are below the minimum" if result["answers"] else "the vocabulary has no candidate"
        console.print(f"No answer: {reason}")
    console.print(table)
    if "audio" in result["modalities"]:
        console.print(USED_SOUND)
    if result["out_of_vocabulary"]:
        console.print(f"Not in the vocabulary: {escape(', '.join(result['out_of_vocabulary']))}")


COMMANDS = {"ask": (add_arguments, run, show)}
