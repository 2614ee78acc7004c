"""Searches over several signals where one of them has the answer: how often the right clip comes first.

    python -m benchmarks.signals --bundle bundles/hd-vila-tiny

200 clips, each with pictures, sound, speech, screen text and a title. For 50 of them each the query is about the
pictures, the sound, the speech or the screen text, and its words occur in the other signals of other clips. Pictures
are drawn scenes of the test split, embedded by the bundle, searched by a caption. As the bundle has no sound, sound
embeddings are synthetic: unit vectors whose cosine with their own query stands out about as much as that of a scene and
its caption (``MARGIN``). Speech and screen text are sentences of six words that other clips have too, searched by four
of them.

Compared are each signal alone, all of them fused as a search does (evidence), and reciprocal rank fusion of the
rankings by each signal. Nothing is reranked.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np

from index.collection import Collection
from index.collection_store import CollectionStore, initial_metadata
from index.recognitions import store_screen_text
from index.records import SEARCH_SIGNALS, Float32, NewClip, NewVideo, SearchSignal
from index.search.request import SearchRequest, TextPart
from index.search.search import search
from index.storage.catalogue import CATALOGUE_NAME, create_catalogue
from index.vectors.interface import FAISS, SIGNALS_KEY
from training.data.scenes.generate import make_example
from training.data.scenes.render import encode
from vitascope.model import Model
from vitascope.screen_text.interface import TextSpan

CLIPS = 200
ANSWER_SIGNALS: tuple[SearchSignal, ...] = ("visual", "audio", "speech", "screen_text")
K = 60
"""Constant of reciprocal rank fusion (Cormack et al., 2009)."""
MARGIN = 7.0
"""Standard deviations of the noise."""
MAX_ALIKE = 0.8
"""Largest cosine of the embeddings of two queries about sound: others would have the same answers."""
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
SOUND_QUERY = "the {adjective} {noun} is heard in the {place}"


@dataclass(frozen=True, slots=True)
class Query:
    """A query and the id of the only clip that answers it, by one signal."""

    text: str
    signal: SearchSignal
    video_id: int


def draw_words(rng: Random) -> dict[str, str]:
    """Return one word for each place of a sentence."""
    return {kind: rng.choice(words.split()) for kind, words in WORDS.items()}


def draw_sentences(rng: Random, count: int) -> list[dict[str, str]]:
    """Return the words of sentences that differ in what a query asks for."""
    sentences: dict[str, dict[str, str]] = {}
    while len(sentences) < count:
        words = draw_words(rng)
        sentences.setdefault(QUERY.format(**words), words)
    return list(sentences.values())


def draw_sound_queries(rng: Random, model: Model) -> tuple[list[str], Float32]:
    """Return queries about sound that the model tells apart, and their embeddings (N, D)."""
    texts = [SOUND_QUERY.format(**words) for words in draw_sentences(rng, 8 * CLIPS)]
    embeddings = model.embed_text(texts)
    chosen: list[int] = []
    for index, embedding in enumerate(embeddings):
        if len(chosen) < CLIPS and (not chosen or float((embeddings[chosen] @ embedding).max()) < MAX_ALIKE):
            chosen.append(index)
    return [texts[index] for index in chosen], embeddings[chosen]


def synthetic_sounds(rng: np.random.Generator, queries: Float32) -> Float32:
    """Return unit vectors (N, D) of sound, each nearest to its query (N, D) if ``MARGIN`` is large."""
    directions = queries - queries.mean(axis=0)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    noise = rng.standard_normal(queries.shape) / np.sqrt(queries.shape[1])
    own = (directions * queries).sum(axis=1, keepdims=True)
    spread = float(np.std(noise @ queries.T))
    offset = rng.standard_normal(queries.shape[1]) / np.sqrt(queries.shape[1]) / 2  # of sound from other embeddings
    sounds = noise + MARGIN * spread / own * directions + offset
    units: Float32 = (sounds / np.linalg.norm(sounds, axis=1, keepdims=True)).astype(np.float32)
    return units


def fill(library: CollectionStore, model: Model, folder: Path, seed: int) -> tuple[Collection, list[Query]]:
    """Fill a collection, and return it with the queries."""
    manifest = model.bundle.manifest
    meta = initial_metadata(manifest, "int8", FAISS) | {SIGNALS_KEY: "visual,audio"}
    with library.create_folder("signals") as new_folder:
        create_catalogue(new_folder / CATALOGUE_NAME, meta)
    collection = library.open("signals")
    rng = Random(seed)
    spoken, written, named = (draw_sentences(rng, CLIPS) for _ in range(3))
    sound_queries, embeddings = draw_sound_queries(rng, model)
    sounds = synthetic_sounds(np.random.default_rng(seed), embeddings)
    queries = []
    for number in range(CLIPS):
        world, record = make_example(seed, "test", number)
        file = folder / f"{number}.mp4"
        file.write_bytes(encode(world))
        embedded = model.embed_video_file(file)
        clip = NewClip(
            0.0,
            SECONDS,
            embedded.vectors[0],
            embedded.visual_tokens[0].astype(np.float16),
            TEMPLATE.format(**spoken[number]),
            audio_embedding=sounds[number],
        )
        title = "{adjective} {noun}, {place}".format(**named[number])
        video = collection.add_video(NewVideo(f"{number:064x}", str(file), title, SECONDS, 224, 224), [clip])
        line = TEMPLATE.format(**written[number])
        store_screen_text(collection, video.id, [TextSpan(line, 0, SECONDS, (0, 0, 1, 0.1), 1.0)], "drawn")
        signal = ANSWER_SIGNALS[number % len(ANSWER_SIGNALS)]
        texts = {
            "visual": str(record["captions"][0]),
            "audio": sound_queries[number],
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
    """Return hit@1 by way to search and by the signal that has the answer."""
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
    with tempfile.TemporaryDirectory() as temporary, CollectionStore(Path(temporary) / "collections") as library:
        collection, queries = fill(library, model, Path(temporary), chosen.seed)
        table = measure(collection, model, queries)
    columns = [*ANSWER_SIGNALS, "all"]
    print(f"| ranked by | {' | '.join(columns)} |")
    print(f"|---|{'---|' * len(columns)}")
    for way, parts in table.items():
        print(f"| {way} | {' | '.join(f'{parts[column]:.2f}' for column in columns)} |")


if __name__ == "__main__":
    main()
