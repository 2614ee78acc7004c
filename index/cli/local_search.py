"""Search of a collection in a data folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from index.cli.backend import JSON, SearchOptions
from index.collection import Collection
from index.records import Float32, Signal, Video
from index.search.refinement import EmbeddedPart, refine_results, refined_text
from index.search.request import (
    DEFAULT_LIMIT,
    ClipPart,
    EmbeddingPart,
    QueryPart,
    SearchCursor,
    SearchRequest,
    TextPart,
    decode_cursor,
    encode_cursor,
    request_hash,
)
from index.search.rerank import default_rerank, stores_audio_tokens
from index.search.search import search
from index.serializers import result_dicts
from index.storage.filters import parse_filter
from vitascope.errors import InvalidInput, MediaError
from vitascope.media.file import map_os_errors
from vitascope.media.limits import read_media_limits
from vitascope.model import Model
from vitascope.moments import Span, aligned_windows, embed_windows


def search_collection(
    collection: Collection, model: Model, query: Sequence[JSON], files: Sequence[Path], options: SearchOptions
) -> JSON:
    """Implement ``Backend.search_collection``. Raises the errors of ``search`` and ``refine_results``."""
    where, rerank, cursor = options["where"], options["rerank"], options["cursor"]
    parsed = None if where is None else parse_filter(where)
    kept = ("rerank", "signals", "min_similarity", "min_relevance", "group", "candidates")
    key = {**{name: value for name, value in options.items() if name in kept}, "collection": collection.name}
    hash_of_request = request_hash({**key, "query": query, "files": [str(file) for file in files], "filter": where})
    position = None if cursor is None else decode_cursor(cursor, hash_of_request).position
    parts = list(_query_parts(model, query, files))
    text = refined_text(model, parts) if options["refine"] else None
    if rerank is None:
        rerank = default_rerank(model.bundle.manifest, parts, options["signals"], stores_audio_tokens(collection))
    request = SearchRequest(
        fingerprint=model.bundle.fingerprint,
        parts=parts,
        limit=DEFAULT_LIMIT if options["limit"] is None else options["limit"],
        after=position,
        where=parsed,
        rerank=rerank,
        signals=options["signals"],
        min_similarity=options["min_similarity"],
        min_relevance=options["min_relevance"],
        group=options["group"],
        candidates=options["candidates"],
        calibration=model.calibration,
    )
    page = search(collection, request, model)
    results = page.results
    if text is not None:
        results = refine_results(model, text, results, lambda video, part: _embed_part(collection, model, video, part))
    following = page.next_position
    return {
        "results": result_dicts(collection, results),
        "next_cursor": None if following is None else encode_cursor(SearchCursor(hash_of_request, following)),
        "changed": page.changed,
        "warnings": [asdict(warning) for warning in page.warnings],
    }


def _query_parts(model: Model, query: Sequence[JSON], files: Sequence[Path]) -> Iterator[QueryPart]:
    remaining_files = iter(files)
    for part in query:
        if part["kind"] == "text":
            yield TextPart(part["value"], model.embed_text([part["value"]])[0], part["weight"])
        elif part["kind"] == "file":
            embedding = _embed_query_file(model, next(remaining_files), part.get("signal"))
            yield EmbeddingPart(embedding, part["weight"])
        else:
            yield ClipPart(int(part["value"]), part["weight"], part.get("signal"))


def _embed_query_file(model: Model, file: Path, signal: Signal | None) -> Float32:
    from index.search.query_file import embed_query_file, embed_sound  # imports PyAV, which takes a while

    limits = read_media_limits(os.environ)

    def embed(chosen: Signal) -> Float32:
        if chosen == "audio":
            rows = embed_sound(model, file, None, None, limits)
        else:
            rows = model.embed_video_file(file, limits=limits).vectors
        embedding: Float32 = rows[0]
        return embedding

    return embed_query_file(model, file, signal, embed, limits)


def _embed_part(collection: Collection, model: Model, video: Video, part: Span) -> EmbeddedPart | None:
    """Embed the windows of a part of a video; None if its file is missing, or has no pictures that can be decoded."""
    spans = aligned_windows(video.duration, model.moment_windows.window_seconds, *part)
    try:
        with map_os_errors(collection.media_path(video)):
            media = collection.media.open(video)
        with media as file:
            windows = embed_windows(model, file, spans, read_media_limits(os.environ))
    except (MediaError, InvalidInput):
        return None
    return [(max(start, part[0]), min(end, part[1])) for start, end in spans], windows
