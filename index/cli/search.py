"""`vitascope search`: search a collection."""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from index.cli.backend import VIDEO_DEFAULTS, open_backend, parse_filter_option, parse_id
from vitascope.cli.completion import no_completion
from vitascope.cli.options import NOT_WEIGHT, add_bundle, add_collection, add_data, add_engine, add_server
from vitascope.cli.output import print_results
from vitascope.errors import InvalidInput
from vitascope.text_format import is_blank

if TYPE_CHECKING:
    from index.records import SearchSignal

EPILOG = """\
Clips are ranked by similarity, the cosine of the embeddings of query and clip. With --rerank N the
best N are then scored by the fusion model and ordered by fused score. By default N is the number
that the bundle states (vitascope bundle inspect): how many helped on its validation data, often 0.
Relevance is the probability that a clip fits the text, from the fused score or the similarity, or
from words that match. A line above the results says so if no clip reaches 0.25.
With --refine each result has the moment, from 8 s before to 8 s after it, at which the text is most
likely true (vitascope moments); this decodes the videos, and needs a bundle with the task moments.
With --and and --not a query has several conditions: clips that fit all rank above those that fit
one strongly, and each result shows which it meets. A query can also combine a text with images,
videos or sounds (--like) and clips of the collection (--like-clip).
Queries without a text cannot be reranked. The words of a text are also searched in speech,
text on screen (screen_text), generated captions (caption), and titles and paths (name): clips that
contain all of them come first. A part in double quotes must occur literally, and Haus* matches
words that begin with Haus. --signals chooses the signals, with weights; each result says which
signals returned it.

examples:
  vitascope search "a red square moves left"
  vitascope search "two people at a table" --collection cameras --limit 3
  vitascope search "a dog" --filter '{"site": "north", "year": {"gte": 2020}}' --json
  vitascope search "how the engine is taken apart" --group video
  vitascope search "a dog jumps" --limit 3 --refine
  vitascope search "a horse" --and "an astronaut" --not "a city"
  vitascope search --like beach.jpg --group clip --min-similarity 0.6
  vitascope search --like bark.wav
  vitascope search "in the snow" --like dog.mp4 --like-clip 41 --weights 1,0.5,-0.2
  vitascope search '"good morning" beach' --signals speech,visual=0.5
  vitascope search --like-clip 41 --signal audio
  vitascope search "a dog" --server http://127.0.0.1:8000
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    add = parser.add_argument
    no_completion(add("text", nargs="?", metavar="TEXT", help="description of what to find, in quotes"))
    for option, name, help_text in (
        ("--and", "also", "clips must also fit this"),
        ("--not", "but_not", "but not this"),
    ):
        no_completion(add(option, dest=name, action="append", default=[], metavar="TEXT", help=help_text))
    add(
        "--like",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="find clips similar to a video, picture or sound",
    )
    add("--like-clip", action="append", default=[], metavar="ID", help="find clips similar to a clip of the collection")
    add(
        "--signal",
        choices=("visual", "audio"),
        help="what of the files and clips is compared, pictures or sound (default: visual; audio for those with sound "
        "alone)",
    )
    add(
        "--weights",
        metavar="W,W,…",
        help="weights of texts, files and clips, in this order, without --not (default: 1 each)",
    )
    add("--limit", type=int, metavar="N", help="maximum number of results (default: 10)")
    add("--cursor", metavar="CURSOR", help="next_cursor of the previous page of the same search")
    add(
        "--rerank",
        type=int,
        metavar="N",
        help="number of clips to rerank; 0 disables it (default: the number that the bundle states)",
    )
    add("--refine", action="store_true", help="find the moment of each result, where the text is most likely true")
    add(
        "--signals",
        metavar="S,S=W,…",
        help="what to search, with weights: visual, audio, speech, screen_text, caption, name (default: all that the "
        "collection has, 1 each)",
    )
    add("--filter", metavar="JSON", help="filter on metadata and fields of videos and clips")
    add(
        "--min-similarity",
        type=float,
        metavar="S",
        help="exclude clips whose pictures and sound are both less similar, -1 to 1",
    )
    add("--min-relevance", type=float, metavar="P", help="exclude clips of lower relevance, 0 to 1")
    add(
        "--group",
        choices=("clip", "event", "video"),
        default="event",
        help="what a result is: a clip, an event (adjoining clips that fit) or a video (default: %(default)s)",
    )
    add("--candidates", type=int, metavar="N", help="number of best clips that events and videos are made of")
    for add_shared in (add_collection, add_data, add_bundle, add_engine, add_server):
        add_shared(parser)
    parser.set_defaults(optimize=False)  # loading graphs takes most of the time of a single search


def run(args: argparse.Namespace) -> dict[str, Any]:
    # Read when NumPy is imported: starting threads for matrix products takes longer than one search needs them.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    query, where, signals = _parse_query(args), parse_filter_option(args.filter), _parse_signals(args.signals)
    with open_backend(args) as backend:
        page = backend.search_collection(
            args.collection,
            query,
            args.like,
            limit=args.limit,
            cursor=args.cursor,
            where=where,
            rerank=args.rerank,
            refine=args.refine,
            signals=signals,
            min_similarity=args.min_similarity,
            min_relevance=args.min_relevance,
            group=args.group,
            candidates=args.candidates,
        )
    # Older services send no signals and moments.
    defaults: dict[str, Any] = {"signals": {}, "moment": None}
    results = [{**defaults, **hit, "video": {**VIDEO_DEFAULTS, **hit["video"]}} for hit in page["results"]]
    warnings = page.get("warnings", [])  # services of version 0.3 send none
    result = {**page, "text": args.text, "results": results, "warnings": warnings}
    judge_language = partial(backend.language_warnings, query if args.cursor is None else [])
    if args.json:
        return {**result, "warnings": [*judge_language(), *warnings]}
    return {**result, "judge_language": judge_language}


def _parse_query(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the parts of the query in the form of the HTTP API: texts, files, clips, excluded texts."""
    texts = [text for text in (args.text, *args.also) if text is not None]
    if any(is_blank(text) for text in (*texts, *args.but_not)):
        raise InvalidInput("query: a text is empty; words were expected")
    parts: list[dict[str, Any]] = [{"kind": "text", "value": text} for text in texts]
    signal = {} if args.signal is None else {"signal": args.signal}
    parts += [{"kind": "file", **signal} for _ in args.like]
    for clip_id in args.like_clip:
        parse_id("like-clip", clip_id)
        parts.append({"kind": "clip", "value": clip_id, **signal})
    if not parts:
        raise InvalidInput("query: it is empty; a text, --like or --like-clip was expected")
    if args.weights is None:
        weights = [1.0] * len(parts)
    else:
        try:
            weights = [float(weight) for weight in args.weights.split(",")]
        except ValueError as error:
            raise InvalidInput(f"weights: {args.weights!r}; numbers separated by commas were expected") from error
    if len(weights) != len(parts):
        raise InvalidInput(
            f"weights: {args.weights!r} has {len(weights)}; {len(parts)} were expected, one per part of the query"
        )
    excluded = [{"kind": "text", "value": text, "weight": NOT_WEIGHT} for text in args.but_not]
    return [{**part, "weight": weight} for part, weight in zip(parts, weights, strict=True)] + excluded


def _parse_signals(text: str | None) -> dict[SearchSignal, float] | None:
    """Return the weights by signal, such as ``visual,speech=0.5``; None for None."""
    if text is None:
        return None
    from index.records import SEARCH_SIGNALS

    known: dict[str, SearchSignal] = {signal: signal for signal in SEARCH_SIGNALS}
    signals: dict[SearchSignal, float] = {}
    for item in text.split(","):
        name, separator, weight = item.strip().partition("=")
        try:
            value = float(weight) if separator else 1.0
        except ValueError as error:
            raise InvalidInput(
                f"signals: {item!r}; a signal, or one with a weight as speech=0.5, was expected"
            ) from error
        if name not in known or known[name] in signals:
            raise InvalidInput(f"signals: {name!r}; different ones of {', '.join(known)} were expected")
        signals[known[name]] = value
    return signals


def show(result: dict[str, Any], console: Console) -> None:
    for warning in result["warnings"]:
        console.print(escape(warning["detail"]))
    print_results(result["results"], console)
    if result["changed"]:
        console.print("The collection has changed since the previous page; a new search includes added videos")
    if "judge_language" in result:  # after the results, as it may take longer than the search
        for warning in result["judge_language"]():
            print(warning["detail"], file=sys.stderr)


COMMANDS = {"search": (add_arguments, run, show)}
