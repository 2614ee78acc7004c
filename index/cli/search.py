"""`vitascope search`: in the collections of this machine, or of a running service."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from index.cli.filters import read_filter
from index.cli.places import opened_collection
from index.cli.record_ids import record_number
from index.cli.views import result_here, result_there
from vitascope.cli.completers import no_completion
from vitascope.cli.options import add_bundle, add_collection, add_data, add_engine, add_server, server_url
from vitascope.cli.output import print_results
from vitascope.errors import InvalidInput

if TYPE_CHECKING:
    from index.search.request import QueryPart
    from vitascope.client import Client
    from vitascope.model import Model

RERANK = 20

EPILOG = """\
Clips are ranked by similarity (cosine of the query's and the clip's vectors). The best of them are then
judged by the fusion model and ordered by the fused score; --rerank says how many, and 0 leaves that out.
The query may also be pictures or videos (--like) or clips of the collection (--like-clip), alone or with a
sentence; without a sentence nothing is judged. --hybrid looks for the sentence's words, too, in titles and
in what is said.

examples:
  vitascope search "a red square moves left"
  vitascope search "two people at a table" --collection cameras --limit 3
  vitascope search "a dog" --filter '{"site": "north", "year": {"gte": 2020}}' --json
  vitascope search "how the engine is taken apart" --hybrid --group video
  vitascope search --like beach.jpg --group event --min-similarity 0.6
  vitascope search "in the snow" --like dog.mp4 --like-clip 41 --weights 1,0.5,-0.2
  vitascope search "a dog" --server http://127.0.0.1:8000
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    no_completion(parser.add_argument("text", nargs="?", metavar="SENTENCE", help="what to look for, in quotes"))
    parser.add_argument(
        "--like", action="append", default=[], type=Path, metavar="FILE", help="what looks like this picture or video"
    )
    parser.add_argument(
        "--like-clip", action="append", default=[], metavar="ID", help="what looks like this clip of the collection"
    )
    parser.add_argument(
        "--weights", metavar="W,W,…", help="of the sentence, then of files, then of clips (default: 1 each)"
    )
    parser.add_argument("--limit", type=int, default=10, metavar="N", help="results (default: %(default)s)")
    parser.add_argument("--cursor", metavar="CURSOR", help="next_cursor of an answer to the same search: its next page")
    parser.add_argument(
        "--rerank",
        type=int,
        metavar="N",
        help=f"clips to judge (default: {RERANK} if there is a sentence and the bundle can match)",
    )
    parser.add_argument("--hybrid", action="store_true", help="words count, too: of titles and of what is said")
    parser.add_argument("--filter", metavar="JSON", help="on metadata, see the examples")
    parser.add_argument("--min-similarity", type=float, metavar="S", help="nothing less similar, -1 to 1")
    parser.add_argument(
        "--group",
        choices=("clip", "event", "video"),
        default="clip",
        help="what a result is; an event: clips that touch or overlap (default: %(default)s)",
    )
    parser.add_argument("--candidates", type=int, metavar="N", help="best clips that events or videos are made of")
    for add in (add_collection, add_data, add_bundle, add_engine, add_server):
        add(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    weights = _weights(args)
    for clip_id in args.like_clip:
        record_number("like-clip", clip_id)
    if (server := server_url(args)) is not None:
        return _search_there(server, args, weights)
    return _search_here(args, weights)


def _search_here(args: argparse.Namespace, weights: list[float]) -> dict[str, Any]:
    from index.search.cursor import SearchCursor, decode_cursor, encode_cursor
    from index.search.request import SearchRequest
    from index.search.rerank import pair_scorer
    from index.search.search import search
    from index.storage.filters import parse_filter
    from vitascope.model import Model

    where = None if args.filter is None else parse_filter(read_filter(args.filter))
    request_hash = _request_hash(args, weights)
    cursor = None if args.cursor is None else decode_cursor(args.cursor, request_hash)
    with opened_collection(args, args.collection) as collection:
        model = Model.open(args.bundle, threads=args.threads, device=args.device, engine=args.engine)
        collection.require_fingerprint(model.bundle.fingerprint)
        request = SearchRequest(
            fingerprint=model.bundle.fingerprint,
            parts=_parts(args, weights, model),
            limit=args.limit,
            after=None if cursor is None else cursor.position,
            where=where,
            rerank=_rerank(args, weights, model.bundle.manifest.tasks),
            hybrid=args.hybrid,
            group=args.group,
            candidates=args.candidates,
            min_similarity=args.min_similarity,
        )
        page = search(collection, request, pair_scorer(model))
    position = page.next_position
    return {
        "text": args.text,
        "results": [result_here(collection, result) for result in page.results],
        "next_cursor": None if position is None else encode_cursor(SearchCursor(request_hash, position)),
        "changed": page.changed,
    }


def _request_hash(args: argparse.Namespace, weights: list[float]) -> str:
    """Return the hash of everything that defines the results."""
    from index.search.cursor import request_hash

    options = "collection text like_clip rerank hybrid filter min_similarity group candidates"
    fields = {option: getattr(args, option) for option in options.split()}
    return request_hash({**fields, "like": [str(path) for path in args.like], "weights": weights})


def _search_there(server: str, args: argparse.Namespace, weights: list[float]) -> dict[str, Any]:
    from vitascope.client import Client

    where = None if args.filter is None else read_filter(args.filter)
    if len(args.like) > 1:
        raise InvalidInput(f"like: {len(args.like)} files; a service takes one with a search, --local any number")
    kinds = [("text", args.text)] if args.text is not None else []
    kinds += [*(("file", None) for _ in args.like), *(("clip", clip_id) for clip_id in args.like_clip)]
    query = [
        {"kind": kind, **({} if value is None else {"value": value}), "weight": weight}
        for (kind, value), weight in zip(kinds, weights, strict=True)
    ]
    with Client(server) as client:
        tasks = _tasks(client, args.collection) if args.rerank is None and args.text is not None else []
        found = client.search(
            args.collection,
            query=query,
            file=args.like[0] if args.like and args.cursor is None else None,
            limit=args.limit,
            where=where,
            rerank=_rerank(args, weights, tasks),
            hybrid=args.hybrid,
            min_similarity=args.min_similarity,
            group=args.group,
            candidates=args.candidates,
            cursor=args.cursor,
        )
    return {**found, "text": args.text, "results": [result_there(result) for result in found["results"]]}


def _tasks(client: Client, name: str) -> list[str]:
    """What the model that fills the collection can do; nothing where it is not loaded, which the search will say."""
    fingerprint = client.get_collection(name)["fingerprint"]
    serving = (model["tasks"] for model in client.list_models()["models"] if model["fingerprint"] == fingerprint)
    return list(next(serving, []))


def _weights(args: argparse.Namespace) -> list[float]:
    """One for each part of the query: sentence, files, clips."""
    count = (args.text is not None) + len(args.like) + len(args.like_clip)
    if not count:
        raise InvalidInput("query: nothing to look for; a sentence, --like or --like-clip was expected")
    if args.weights is None:
        return [1.0] * count
    try:
        weights = [float(weight) for weight in args.weights.split(",")]
    except ValueError as error:
        raise InvalidInput(f"weights: {args.weights!r}; numbers with commas between them were expected") from error
    if len(weights) != count:
        raise InvalidInput(f"weights: {args.weights!r} are {len(weights)}; {count} were expected, one for each part")
    return weights


def _parts(args: argparse.Namespace, weights: list[float], model: Model) -> list[QueryPart]:
    from index.search.request import ClipPart, EmbeddingPart, TextPart

    remaining = iter(weights)
    parts: list[QueryPart] = []
    if args.text is not None:
        parts.append(TextPart(args.text, model.embed_text([args.text])[0], next(remaining)))
    parts += [EmbeddingPart(model.embed_file(path).vectors[0], next(remaining)) for path in args.like]
    parts += [ClipPart(int(clip_id), next(remaining)) for clip_id in args.like_clip]
    return parts


def _rerank(args: argparse.Namespace, weights: list[float], tasks: list[Any]) -> int:
    if args.rerank is not None:
        return int(args.rerank)
    has_sentence = args.text is not None and weights[0] > 0
    return RERANK if has_sentence and "matching" in tasks else 0


def show(result: dict[str, Any], console: Console) -> None:
    print_results(result["results"], console)
    if result["changed"]:
        console.print("the collection has changed since the page before: a new search also finds what was added")


COMMANDS = {"search": (add_arguments, run, show)}
