"""Refinement of search results: find in and around each result the moment at which the query is most likely true."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from index.records import Float32, Video
from index.search.request import QueryPart, positive_texts
from index.search.search import SearchResult
from vitascope.errors import InvalidInput, TaskMissing
from vitascope.model import Model
from vitascope.moments import Span, aligned_windows

MARGIN_SECONDS = 8.0
"""Seconds before and after a result that are also searched for its moment."""

EmbeddedPart = tuple[Sequence[Span], Float32]
"""Windows of a part of a video: their spans, cut to the part, and their embeddings (T, D)."""


def refined_text(model: Model, parts: Sequence[QueryPart]) -> str:
    """Return the text whose moments are searched in the results.

    Raises:
        InvalidInput: the query has no text of positive weight, or several.
        TaskMissing: the bundle has no task "moments".
    """
    manifest = model.bundle.manifest
    if "moments" not in manifest.tasks:
        raise TaskMissing(f"refine: true; false was expected, as bundle {manifest.name} has no task 'moments'")
    texts = positive_texts(parts)
    if len(texts) != 1:
        raise InvalidInput(
            f"refine: true; false was expected, as the query has {len(texts) or 'no'} texts of positive weight and "
            "moments are found by one"
        )
    return texts[0]


def refine_results(
    model: Model,
    text: str,
    results: Sequence[SearchResult],
    embed_part: Callable[[Video, Span], EmbeddedPart | None],
    max_windows: int | None = None,
) -> list[SearchResult]:
    """Return the results with their moments.

    Args:
        model: model of the collection.
        text: the text that ``refined_text`` returns.
        results: results of one page.
        embed_part: embeds the windows of a part of a video; returns None if its file cannot be used.
        max_windows: maximum number of windows of all results together; None: no maximum.

    Raises:
        InvalidInput: the results have more than ``max_windows`` windows.
        EngineError, and the errors of ``embed_part``.
    """
    seconds = model.moment_windows.window_seconds
    parts: list[tuple[Video, Span]] = []
    for result in results:
        video = result.best.hit.video
        part = (max(0.0, result.start - MARGIN_SECONDS), min(video.duration, result.end + MARGIN_SECONDS))
        parts.append((video, part))
    count = sum(len(aligned_windows(video.duration, seconds, *part)) for video, part in parts)
    if max_windows is not None and count > max_windows:
        raise InvalidInput(
            f"limit: {len(results)} results, refined with {MARGIN_SECONDS:g} s to either side, are {count} windows of "
            f"{seconds:g} s; at most {max_windows} were expected (max_moment_windows), so a lower limit"
        )
    refined = []
    for result, (video, part) in zip(results, parts, strict=True):
        moment = None
        if (embedded := embed_part(video, part)) is not None:
            spans, windows = embedded
            [best] = model.find_moments([text], windows, spans, top=1)
            moment = next(iter(best.moments), None)
        refined.append(replace(result, moment=moment))
    return refined
