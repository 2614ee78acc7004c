"""Embeddings of query files.

Shape letter: D embedding dim.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from index.records import Float32, Signal
from vitascope.embeddings import Floats
from vitascope.errors import InvalidInput, MediaUnsupported
from vitascope.media.limits import MediaLimits
from vitascope.media.sampling import resolve_span
from vitascope.model import Model

GRAPHS: dict[Signal, str] = {"visual": "video", "audio": "audio"}
"""Name of the bundle's embedding graph by signal."""
_CONTENT: dict[Signal, str] = {"visual": "pictures", "audio": "sound"}


def embed_query_file(
    model: Model, file: Path, signal: Signal | None, embed: Callable[[Signal], Float32], limits: MediaLimits
) -> Float32:
    """Embed the pictures or the sound of a file.

    Args:
        model: Model that ``embed`` uses.
        file: Video, image or sound file.
        signal: What to embed; None: the pictures if the file and the model have them, else the sound.
        embed: Returns the embedding (D,) of the file by a signal.
        limits: Limits of the decoder.

    Raises:
        InvalidInput: The model cannot embed this signal, or the file lacks it.
        MediaError, and the errors of ``embed``.
    """
    graphs = model.bundle.manifest.graphs
    if signal is None and "video" in graphs:
        try:
            return embed("visual")
        except MediaUnsupported:
            if model.decoder.probe(file, limits).kind != "audio":
                raise
    chosen = signal or "audio"
    if GRAPHS[chosen] not in graphs:
        bundle = f"{model.bundle.manifest.name} {model.bundle.manifest.version}"
        other = next(key for key in GRAPHS if key != chosen)
        problem = f"signal: {signal!r}; {other!r} was expected"
        if signal is None:
            problem = f"{file.name}: sound alone; a file with pictures was expected"
        raise InvalidInput(f"{problem}, as bundle {bundle} embeds no {_CONTENT[chosen]}")
    return embed(chosen)


def embed_sound(model: Model, file: Path, start: float | None, end: float | None, limits: MediaLimits) -> Floats:
    """Return the embedding (1, D) of the sound of a file from ``start`` to ``end`` (s; None: its beginning, its end).

    Raises TaskMissing, media errors and InvalidInput, also for silence.
    """
    span = resolve_span(model.decoder.probe(file, limits).duration, start, end)
    embedding, _ = model.embed_audio_file(file, [span], limits)
    if not len(embedding.vectors):
        raise InvalidInput(f"{file.name}: no sound from {span[0]:g} to {span[1]:g} s; sound was expected")
    return embedding.vectors
