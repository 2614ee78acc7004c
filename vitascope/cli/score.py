"""`vitascope score`: score how well captions describe a video or image."""

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
from vitascope.errors import InvalidInput
from vitascope.text_format import format_score, format_time

EPILOG = """\
Scores:
  similarity   cosine of the embeddings, -1 to 1; what search ranks by
  match        probability by the fusion model, 0 to 1, that the caption describes the file
  fused        similarity and match combined, 0 to 1; best to tell a right caption from a wrong one
  clipscore    2.5 * max(cosine, 0); best to compare captions of photographs, if the bundle has a caption matrix
  refclipscore with --reference: clipscore and the similarity to the best reference
  emscore      with --frames: similarity and the alignment of words with frames

examples:
  vitascope score clip.mp4 "a dog runs on grass" "a cat sleeps"
  vitascope score photo.jpg "two people at a table" --json
  vitascope score clip.mp4 "a dog runs" --reference "a brown dog runs over a meadow" --frames 8
  vitascope score clip.mp4 "a red square" --server http://127.0.0.1:8000
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("file", type=Path, metavar="FILE", help="video or image")
    no_completion(parser.add_argument("captions", nargs="+", metavar="CAPTION", help="a sentence, in quotes"))
    parser.add_argument(
        "--reference",
        action="append",
        default=[],
        metavar="CAPTION",
        help="caption known to be right; may be repeated",
    )
    parser.add_argument(
        "--frames",
        type=int,
        default=0,
        metavar="N",
        help="number of frames for EMScore (default: 0, no EMScore)",
    )
    add_inference_options(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    if (server := server_url(args)) is not None:
        from vitascope.client import Client

        with Client(server) as client:
            scored = client.score_file(
                args.file, args.captions, references=args.reference, frames=args.frames, model=args.model
            )
            return {"file": str(args.file), "modalities": ["visual"], **scored}  # older services do not state them
    return _score_locally(args)


def _score_locally(args: argparse.Namespace) -> dict[str, Any]:
    """Score with a local model. Scores that the bundle does not support are None."""
    from dataclasses import asdict

    from vitascope.media.decode import probe
    from vitascope.media.limits import read_media_limits
    from vitascope.modalities import read_audio_tokens, used_modalities
    from vitascope.model import Model
    from vitascope.scoring import FrameEmbeddings, frame_times, score_captions

    if args.frames < 0:
        raise InvalidInput(f"--frames: {args.frames}; 0 or more was expected")
    model = Model.open(args.bundle, threads=args.threads, device=args.device, engine=args.engine)
    limits = read_media_limits(os.environ)
    end = probe(args.file, limits).duration
    times = frame_times(0.0, end, args.frames) if args.frames else []
    embeddings = model.embed_video_file(args.file, [(0.0, end), *((time, time) for time in times)], limits)
    frames = FrameEmbeddings(times, embeddings.vectors[1:]) if times else None
    audio_tokens = read_audio_tokens(model, args.file, (0.0, end), limits) if "matching" in model.tasks else None
    scores = score_captions(model, embeddings, args.captions, args.reference, frames, audio_tokens)
    span = {"file": str(args.file), "video": None, "start": 0.0, "end": end}  # as in the response of a service
    return {**span, "modalities": list(used_modalities(audio_tokens)), "scores": [asdict(score) for score in scores]}


def show(result: dict[str, Any], console: Console) -> None:
    scores = result["scores"]
    columns = [name for name in COLUMNS if any(score[name] is not None for score in scores)]
    table = plain_table(*(f">{name}" for name in columns), "caption")
    best = max(scores, key=_rank)
    for score in scores:
        table.add_row(
            *(format_score(_value(score, name)) for name in columns),
            escape(score["caption"]),
            style="bold" if score is best and len(scores) > 1 else None,
        )
    console.print(table)
    if "audio" in result["modalities"]:
        console.print(USED_SOUND)
    if "emscore" in columns:
        console.print()
        console.print(_words_table(scores))


COLUMNS = ("fused", "match", "similarity", "clipscore", "refclipscore", "emscore")
"""Columns of the table, shown if they have values."""


def _words_table(scores: list[dict[str, Any]]) -> Any:
    """Return a table of the weighted words, each with its best frame."""
    table = plain_table(">word and frame", ">frame at", "word", "caption")
    for score in scores:
        for word in score["emscore"]["words"]:
            if word["weight"] > 0:
                table.add_row(
                    format_score(word["similarity"]),
                    format_time(word["time"]),
                    escape(word["word"]),
                    escape(score["caption"]),
                )
    return table


def _value(score: dict[str, Any], name: str) -> float | None:
    value: float | None = score["emscore"]["score"] if name == "emscore" and score[name] else score[name]
    return value


def _rank(score: dict[str, Any]) -> float:
    values: list[float] = [score[name] for name in ("fused", "match", "similarity") if score[name] is not None]
    return values[0]


COMMANDS = {"score": (add_arguments, run, show)}
