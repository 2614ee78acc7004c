"""Hit@1 of searches over several signals, of which only one has the answer.

    python -m benchmarks.signals --bundle bundles/hd-vila-tiny

There are 200 clips with pictures, sound, speech, screen text and a title. 50 queries are about each of pictures, sound,
speech and screen text; their words also occur in the other signals of other clips. Pictures and sounds are those of
scenes of the test split, embedded by the bundle; their queries are captions of what is seen or heard. Speech and screen
text are sentences of six words, each of which other clips have too; their queries are four of these words.

Compared are each signal alone, all signals fused as in a search (evidence), and reciprocal rank fusion of the rankings
by each signal. Nothing is reranked.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from random import Random

import numpy as np

from benchmarks import run_main
from index.collection import Collection
from index.collection_store import CollectionStore
from index.recognitions import store_screen_text
from index.records import SEARCH_SIGNALS, Float32, NewClip, NewVideo, SearchSignal
from index.search.request import SearchRequest, TextPart
from index.search.search import search
from training.data.scenes.generate import make_sound_example
from training.data.scenes.render import encode
from training.data.scenes.sounds import Soundtrack
from training.data.scenes.synthesis import synthesize
from training.data.scenes.world import World
from vitascope.model import Model
from vitascope.screen_text.interface import TextSpan

CLIPS = 200
ANSWER_SIGNALS: tuple[SearchSignal, ...] = ("visual", "audio", "speech", "screen_text")
K = 60
"""Constant of reciprocal rank fusion (Cormack et al., 2009)."""
SECONDS = 4.0
WORDS = {
    "name": "Anna Boris Clara David Elena Farid Greta Hugo Irene Jonas Karla Leo Maria Nikos Olga Pavel Rosa Samir",
    "verb": "paints sells repairs photographs carries hides cleans measures draws weighs buys rolls shows turns moves",
    "adjective": "red green blue yellow white black orange purple small large old wooden broken loud quiet striped",
    "noun": "square circle triangle star ring bell drum flute guitar whistle bridge lamp boat letter table engine",
    "place": "garden harbour kitchen museum station library village tower market forest school valley cellar studio",
    "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday morning evening winter summer autumn spring",
}
TEMPLATE = "{name} {verb} the {adjective} {noun} in the {place} every {day}"
QUERY = "{verb} the {adjective} {noun} in the {place}"


@dataclass(frozen=True, slots=True)
class Query:
    """A query and the id of the only clip that answers it, by one signal."""

    text: str
    signal: SearchSignal
    video_id: int


def draw_words(rng: Random) -> dict[str, str]:
    """Return one word for each place of a sentence."""
    return {kind: rng.choice(words.split()) for kind, words in WORDS.items()}


def draw_sentences(rng: Random, number: int) -> list[dict[str, str]]:
    """Return the words of `number` sentences whose queries all differ."""
    sentences: dict[str, dict[str, str]] = {}
    while len(sentences) < number:
        words = draw_words(rng)
        sentences.setdefault(QUERY.format(**words), words)
    return list(sentences.values())


def draw_scenes(seed: int) -> Iterator[tuple[World, Soundtrack, dict[str, str]]]:
    """Yield scenes with sound of the test split, with their first captions about the picture and about the sound."""
    for number in count():
        world, soundtrack, record = make_sound_example(seed, "test", number)
        captions: dict[str, str] = {}
        for caption, need in zip(record["captions"], record["caption_needs"], strict=True):
            captions.setdefault(need, caption)
        if "sound" in captions:
            yield world, soundtrack, captions


def fill(library: CollectionStore, model: Model, folder: Path, seed: int) -> tuple[Collection, list[Query]]:
    """Fill a collection, and return it with the queries."""
    collection = library.create("signals", model.bundle.manifest)
    rng = Random(seed)
    spoken, written, named = (draw_sentences(rng, CLIPS) for _ in range(3))
    queries = []
    for number, (world, soundtrack, captions) in enumerate(islice(draw_scenes(seed), CLIPS)):
        file = folder / f"{number}.mp4"
        file.write_bytes(encode(world, synthesize(soundtrack)))
        embedded = model.embed_file(file)
        assert embedded.video is not None
        assert embedded.audio is not None
        clip = NewClip(
            0.0,
            SECONDS,
            embedded.video.vectors[0],
            embedded.video.visual_tokens[0].astype(np.float16),
            TEMPLATE.format(**spoken[number]),
            audio_embedding=embedded.audio.vectors[0],
        )
        title = "{adjective} {noun}, {place}".format(**named[number])
        video = collection.add_video(NewVideo(f"{number:064x}", str(file), title, SECONDS, 224, 224), [clip])
        line = TEMPLATE.format(**written[number])
        store_screen_text(collection, video.id, [TextSpan(line, 0, SECONDS, (0, 0, 1, 0.1), 1.0)], "drawn")
        signal = ANSWER_SIGNALS[number % len(ANSWER_SIGNALS)]
        texts = {
            "visual": captions["sight"],
            "audio": captions["sound"],
            "speech": QUERY.format(**spoken[number]),
            "screen_text": QUERY.format(**written[number]),
        }
        queries.append(Query(texts[signal], signal, video.id))
    return collection, queries


def ranking(
    collection: Collection, model: Model, query: Query, embedding: Float32, signals: Mapping[SearchSignal, float] | None
) -> list[int]:
    """Return the ids of the videos of a search, best first."""
    request = SearchRequest(
        model.bundle.fingerprint,
        [TextPart(query.text, embedding)],
        limit=CLIPS,
        signals=signals,
        calibration=model.calibration,
    )
    return [result.best.hit.video_id for result in search(collection, request).results]


def fuse_ranks(rankings: Sequence[Sequence[int]]) -> list[int]:
    """Return ids by reciprocal rank fusion, best first."""
    scores: dict[int, float] = defaultdict(float)
    for ids in rankings:
        for rank, video_id in enumerate(ids, 1):
            scores[video_id] += 1 / (K + rank)
    return sorted(scores, key=lambda video_id: (-scores[video_id], video_id))


def measure(collection: Collection, model: Model, queries: Sequence[Query]) -> dict[str, dict[str, float]]:
    """Return hit@1 by method of ranking and by the signal that has the answer."""
    hits: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    embeddings = model.embed_text([query.text for query in queries])
    for query, embedding in zip(queries, embeddings, strict=True):
        alone = {signal: ranking(collection, model, query, embedding, {signal: 1.0}) for signal in SEARCH_SIGNALS}
        ways = {f"{signal} alone": ids for signal, ids in alone.items()}
        ways["evidence"] = ranking(collection, model, query, embedding, None)
        ways[f"reciprocal ranks, k = {K}"] = fuse_ranks(list(alone.values()))
        for way, ids in ways.items():
            for part in (query.signal, "all"):
                hits[way][part].append(ids[:1] == [query.video_id])
    return {way: {part: float(np.mean(values)) for part, values in parts.items()} for way, parts in hits.items()}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="hit@1 of searches where one of several signals has the answer")
    parser.add_argument("--bundle", type=Path, default=Path("bundles/hd-vila-tiny"))
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    model = Model.open(chosen.bundle)
    if "audio_retrieval" not in model.tasks:
        parser.error(f"bundle: {chosen.bundle} has no sound; one with the task audio_retrieval was expected")
    with tempfile.TemporaryDirectory() as temporary, CollectionStore(Path(temporary) / "collections") as library:
        collection, queries = fill(library, model, Path(temporary), chosen.seed)
        table = measure(collection, model, queries)
    columns = [*ANSWER_SIGNALS, "all"]
    print(f"| ranked by | {' | '.join(columns)} |")
    print(f"|---|{'---|' * len(columns)}")
    for way, parts in table.items():
        print(f"| {way} | {' | '.join(f'{parts[column]:.2f}' for column in columns)} |")


if __name__ == "__main__":
    run_main(main)
