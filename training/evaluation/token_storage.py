"""What it costs to keep visual tokens in fewer bytes: reranking with what each way of storing gives back.

    python -m training.evaluation.token_storage BUNDLE --data data/packed --corpus flickr8k --corpus scenes

prints the table of `docs/collections.md`. Queries are the first captions of the first so many examples of a test
split, all of whose examples are searched (or the first so many, `--gallery`, where time is short). A way of storing
stands for itself: what it gives back goes into the same graphs.

Shape letters: N examples, V visual tokens on a grid of H rows and W columns, D their width.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from training.data.packed import Packed, open_packed
from training.evaluation.embedding import embed_texts, match_logits
from training.evaluation.encoder import Encoder
from training.evaluation.fitting import check_streams
from training.evaluation.gallery import Gallery, embed_gallery
from training.evaluation.metrics import pairwise_accuracy
from vitascope.errors import InvalidInput, VitascopeError
from vitascope.model import Model
from vitascope.visual_token_codec import ENCODINGS, TokenEncoding, decode_tokens, encode_tokens, encoded_bytes

Stored = Callable[[np.ndarray], np.ndarray]
"""Tokens (V, D) -> what is read of them after they were stored, (V, D) float32."""


@dataclass(frozen=True)
class Storage:
    """A way of storing: its name, what it keeps of a clip's tokens, and the bytes that these take."""

    name: str
    stored: Stored
    clip_bytes: int


@dataclass(frozen=True)
class Kept:
    """What a way of storing leaves of one corpus's numbers, percentages.

    recall_1, recall_5: of reranking by the fused score. match: how often a query's own video has the higher match
    than the most similar other one. shift: mean distance of the match probabilities from those of unaltered tokens.
    """

    corpus: str
    storage: Storage
    recall_1: float
    recall_5: float
    match: float
    shift: float


def storages(shape: tuple[int, int]) -> list[Storage]:
    """Every encoding of tokens of ``shape`` (V, D), then the smallest of tokens pooled 2x2."""
    found = [Storage(e, _encoded(e, shape), encoded_bytes(e, shape)) for e in ENCODINGS]
    side = round(shape[0] ** 0.5)
    if side * side == shape[0]:
        half = (side + 1) // 2
        pooled_shape = (half * half, shape[1])
        through = _encoded("int8", pooled_shape)
        name = f"int8, {side}x{side} pooled to {half}x{half}"
        found.append(
            Storage(name, lambda t: spread(through(pooled(t, side)), side), encoded_bytes("int8", pooled_shape))
        )
    return found


def pooled(tokens: np.ndarray, side: int) -> np.ndarray:
    """Means of 2x2 neighbours of a square grid, (side * side, D) -> (half * half, D); at odd edges, of fewer."""
    starts = np.arange(0, side, 2)
    sizes = np.minimum(side - starts, 2)
    grid = tokens.reshape(side, side, -1).astype(np.float32)
    sums = np.add.reduceat(np.add.reduceat(grid, starts, axis=0), starts, axis=1)
    means: np.ndarray = sums / (sizes[:, np.newaxis] * sizes)[..., np.newaxis]
    return means.reshape(len(starts) ** 2, -1)


def spread(tokens: np.ndarray, side: int) -> np.ndarray:
    """Each pooled token at every place it is a mean of: the match graph takes as many tokens as it was made for."""
    half = (side + 1) // 2
    grid = tokens.reshape(half, half, -1).repeat(2, axis=0).repeat(2, axis=1)
    return np.ascontiguousarray(grid[:side, :side]).reshape(side * side, -1)


def measure(encoder: Encoder, packed: Packed, queries: int, rerank: int) -> list[Kept]:
    """One row for each way of storing. Raises InvalidInput where the model cannot match or sees other frames."""
    if "matching" not in encoder.tasks:
        raise InvalidInput(f"bundle: its tasks are {', '.join(encoder.tasks)}; one that can match was expected")
    check_streams(encoder, packed)
    videos, tokens = embed_gallery(encoder, packed, None)
    asked = [(row, e.captions[0]) for row, e in enumerate(packed.examples) if e.captions][:queries]
    return _measured(encoder, str(packed.info["corpus"]), videos, tokens, asked, rerank)


def _measured(
    encoder: Encoder,
    corpus: str,
    videos: Gallery,
    tokens: np.ndarray,
    asked: Sequence[tuple[int, str]],
    rerank: int,
) -> list[Kept]:
    own = np.array([row for row, _ in asked])
    texts = [text for _, text in asked]
    similarity = videos.scores(embed_texts(encoder, texts))
    near = np.argsort(-similarity, axis=1, kind="stable")[:, :rerank]
    rivals = _most_similar_others(similarity, own)
    # Every pair once: the candidates of each query, its own video, the most similar other.
    rows = np.concatenate([near, own[:, np.newaxis], rivals[:, np.newaxis]], axis=1)
    pairs = [text for text in texts for _ in range(rows.shape[1])]
    near_similarity = np.take_along_axis(similarity, near, axis=1)
    found: list[Kept] = []
    unaltered: np.ndarray | None = None
    for storage in storages((tokens.shape[1], tokens.shape[2])):
        read = np.stack([storage.stored(clip) for clip in tokens])
        logits = match_logits(encoder, pairs, read, rows.ravel().tolist()).reshape(rows.shape)
        unaltered = logits if unaltered is None else unaltered
        fused = encoder.fused(near_similarity.ravel(), logits[:, :-2].ravel()).reshape(near.shape)
        order = np.take_along_axis(near, np.argsort(-fused, axis=1, kind="stable"), axis=1)
        hit = order == own[:, np.newaxis]
        found.append(
            Kept(
                corpus,
                storage,
                recall_1=float(100 * hit[:, :1].any(axis=1).mean()),
                recall_5=float(100 * hit[:, :5].any(axis=1).mean()),
                match=pairwise_accuracy(logits[:, -2], logits[:, -1]),
                shift=float(100 * np.abs(_probability(logits) - _probability(unaltered)).mean()),
            )
        )
    return found


def _first(packed: Packed, count: int | None) -> Packed:
    arrays = {name: array[:count] for name, array in packed.arrays.items()}
    return replace(packed, arrays=arrays, examples=packed.examples[:count])


def _most_similar_others(similarity: np.ndarray, own: np.ndarray) -> np.ndarray:
    others = similarity.copy()
    others[np.arange(len(own)), own] = -np.inf
    return np.asarray(others.argmax(axis=1))


def _probability(logits: np.ndarray) -> np.ndarray:
    """Before calibration, which the rows of a table share."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits)))


def _encoded(encoding: TokenEncoding, shape: tuple[int, int]) -> Stored:
    return lambda tokens: decode_tokens(encode_tokens(tokens, encoding), encoding, shape)


def table(rows: Sequence[Kept]) -> str:
    """The rows in markdown."""
    lines = [
        "| corpus | tokens as | bytes per clip | R@1 | R@5 | own video has the higher match | match moves by |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        numbers = f"{row.recall_1:.1f} | {row.recall_5:.1f} | {row.match:.1f} | {row.shift:.3f}"
        lines.append(f"| {row.corpus} | {row.storage.name} | {row.storage.clip_bytes:,} | {numbers} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.evaluation.token_storage", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("--data", type=Path, default=Path("data/packed"), help="folder of packed corpora")
    parser.add_argument("--corpus", action="append", required=True, help="whose split test is measured; repeatable")
    parser.add_argument("--queries", type=int, default=500, help="default: %(default)s")
    parser.add_argument("--gallery", type=int, metavar="N", help="search the first N examples alone (default: all)")
    parser.add_argument("--rerank", type=int, default=20, help="candidates of each query (default: %(default)s)")
    args = parser.parse_args(argv)
    try:
        encoder = Model.open(args.bundle)
        rows = [
            row
            for corpus in args.corpus
            for row in measure(
                encoder, _first(open_packed(args.data / corpus / "test"), args.gallery), args.queries, args.rerank
            )
        ]
    except VitascopeError as error:
        print(f"token_storage: {error}", file=sys.stderr)
        return 2
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
