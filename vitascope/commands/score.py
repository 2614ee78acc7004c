"""`vitascope score FILE CAPTION …`: how well do captions describe a video or picture."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from vitascope.commands.options import add_bundle, add_engine, add_server
from vitascope.commands.output import number, plain_table
from vitascope.scores import clip_score

EPILOG = """\
Three scores that should not be mixed up:
  similarity   cosine of the two vectors, -1 to 1; cheap, what search ranks by
  match        probability by the fusion model, 0 to 1, that the caption describes the file
  fused        both together, 0 to 1; the one to compare captions by

examples:
  vitascope score clip.mp4 "a dog runs on grass" "a cat sleeps"
  vitascope score photo.jpg "two people at a table" --json
  vitascope score clip.mp4 "a red square" --server http://127.0.0.1:8000
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("file", type=Path, metavar="FILE", help="video or picture")
    parser.add_argument("captions", nargs="+", metavar="CAPTION", help="a sentence, in quotes")
    add_bundle(parser)
    add_engine(parser)
    add_server(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    if args.server:
        from vitascope.client import Client

        with Client(args.server) as client:
            return {"file": str(args.file), **client.score_file(args.file, args.captions)}
    return score_file(args)


def score_file(args: argparse.Namespace) -> dict[str, Any]:
    """Scores by the model opened here; ``match`` and ``fused`` are null when the bundle cannot match."""
    import numpy as np

    from vitascope.model import Model

    model = Model.open(args.bundle, threads=args.threads, device=args.device)
    video = model.embed_file(args.file)
    similarity = model.embed_text(args.captions) @ video.vectors[0]
    matches: list[float | None] = [None] * len(args.captions)
    fused: list[float | None] = [None] * len(args.captions)
    if "matching" in model.bundle.manifest.tasks:
        match = model.match(args.captions, np.repeat(video.visual_tokens[:1], len(args.captions), axis=0))
        matches = match.probabilities.tolist()
        fused = model.fused(similarity, match.logits).tolist()
    scores = [
        {"caption": c, "similarity": s, "match": m, "fused": f, "clipscore": clip_score(s)}
        for c, s, m, f in zip(args.captions, similarity.tolist(), matches, fused, strict=True)
    ]
    return {"file": str(args.file), "scores": scores}


def show(result: dict[str, Any], console: Console) -> None:
    table = plain_table(">fused", ">match", ">similarity", "caption")
    scores = result["scores"]
    best = max(scores, key=_rank)
    for score in scores:
        table.add_row(
            number(score["fused"]),
            number(score["match"]),
            number(score["similarity"]),
            escape(score["caption"]),
            style="bold" if score is best and len(scores) > 1 else None,
        )
    console.print(table)


def _rank(score: dict[str, Any]) -> float:
    value: float = score["similarity"] if score["fused"] is None else score["fused"]
    return value


COMMANDS = {"score": (add_arguments, run, show)}
