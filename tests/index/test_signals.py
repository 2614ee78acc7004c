"""Embeddings by signal: sound beside pictures, and files with sound alone, in all that a collection does with them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index.collection import Collection, NewClip, NewVideo
from index.collection_store import CollectionStore
from index.jobs.jobs import list_items
from index.jobs.runner import run_job
from index.recognitions import store_speech
from index.records import SearchSignal
from index.search.request import ClipPart
from index.search.rerank import default_rerank, score_best_clips, stores_audio_tokens
from index.storage.catalogue import CATALOGUE_NAME
from index.storage.queries import sample_embeddings
from index.transfer.backup import backup_collection, restore_collection
from index.transfer.media import AllowedPaths
from index.transfer.parquet import export_collection, import_collection
from index.transfer.reembed import reembed
from index.vectors.interface import BACKEND_KEY
from index.vectors.snapshot import SNAPSHOT_NAMES
from tests.index.jobs.fixtures import create_folder_job, ingest_file
from tests.index.sample_data import content
from tests.index.searches import search_hits, text_part
from tests.media_files import write_audio, write_color_video
from tests.small_bundle import AUDIO, TONES, make_small_bundle
from vitascope.bundle.manifest import Calibration
from vitascope.errors import InvalidInput, MediaError, MediaUnsupported, StorageError
from vitascope.model import Model
from vitascope.speech.interface import SpeechSegment

RATE = 8000
WITH_SOUND = ("retrieval", "audio_retrieval", "matching")


def tone(colour: str, seconds: float = 2.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * TONES[colour] * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Model]:
    """Two bundles that search, match and rerank by sound."""
    root = tmp_path_factory.mktemp("bundles")
    options: dict[str, Any] = {"tasks": WITH_SOUND, "audio": {**AUDIO, "fused": True}, "default_rerank": 0}
    options["sound_reranking"] = {"candidates": 3, "match_weight": 0.5}
    return tuple(Model.open(make_small_bundle(root / str(seed), seed=seed, **options)) for seed in (1, 2))  # type: ignore[return-value]


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A red tone without pictures, a blue tone with grey pictures, a silent green video, silence, broken sound."""
    folder = tmp_path_factory.mktemp("sounds")
    silence = np.zeros(8 * RATE, np.float32)
    write_audio(folder / "red.wav", np.concatenate([tone("red", 8.0), silence])[None], RATE, "pcm_s16le")
    write_audio(folder / "blue.mkv", tone("blue")[None], RATE, "pcm_s16le", with_video=True)
    write_color_video(folder / "green.mp4", (0, 255, 0))
    write_audio(folder / "silence.wav", silence[None], RATE, "pcm_s16le")
    return folder


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, sounds: Path, models: tuple[Model, Model]) -> Path:
    root = tmp_path_factory.mktemp("template") / "collections"
    with CollectionStore(root) as library:
        collection = library.create("videos", models[0])
        job = create_folder_job(collection, sounds)
        run_job(collection, models[0], job.id)
        reasons = {Path(item.path).name: (item.state, item.reason) for item in list_items(collection, job.id)}
    assert {name: state for name, (state, _) in reasons.items()} == {
        "blue.mkv": "succeeded",
        "green.mp4": "succeeded",
        "red.wav": "succeeded",
        "silence.wav": "failed",
    }
    assert "silent from start to end" in str(reasons["silence.wav"])
    return root


@pytest.fixture
def library(tmp_path: Path, template: Path) -> Iterator[CollectionStore]:
    copy = tmp_path / "data" / "collections"
    copy.mkdir(parents=True)
    for path in sorted(template.rglob("*")):
        target = copy / path.relative_to(template)
        target.mkdir() if path.is_dir() else target.write_bytes(path.read_bytes())
    with CollectionStore(copy) as opened:
        yield opened


def titles(collection: Collection, model: Model, colour: str, signal: str) -> list[str]:
    """The titles of the hits of a signal, best first."""
    [text] = model.embed_text([f"a {colour} thing"])
    return [hit.video.title for hit in collection.search(text, 10, signal=signal)]  # type: ignore[arg-type]


def check(collection: Collection, model: Model) -> None:
    """Check the signals of the collection of the template."""
    assert collection.signals == ("visual", "audio")
    assert [titles(collection, model, colour, "audio") for colour in ("red", "blue")] == [
        ["red", "blue"],
        ["blue", "red"],
    ]
    assert titles(collection, model, "green", "visual") == ["green", "blue"]
    red = next(video for video in collection.videos() if video.title == "red")
    assert (red.width, red.height, red.duration, red.clip_count) == (0, 0, 16.0, 2)
    assert collection.thumbnail(collection.clips(red.id)[0].id) is None
    blue = next(video for video in collection.videos() if video.title == "blue")
    heard, silent, both = [clip.id for video in (red, blue) for clip in collection.clips(video.id)]
    tokens = collection.stored_tokens([heard, silent, both], "audio")
    assert tokens[silent] is None
    for clip, colour in ((heard, "red"), (both, "blue")):
        [expected] = model.embed_audio([tone(colour)]).tokens
        np.testing.assert_allclose(tokens[clip], expected, atol=0.02)
    assert collection.catalogue.integrity_errors() == []


def test_sound_is_indexed_beside_pictures_and_alone(library: CollectionStore, models: tuple[Model, Model]) -> None:
    check(library.open("videos"), models[0])


def test_a_bound_of_similarity_keeps_the_words_of_a_clip_whose_sound_has_it(
    library: CollectionStore, models: tuple[Model, Model]
) -> None:
    collection = library.open("videos")
    blue = next(video for video in collection.videos() if video.title == "blue")
    store_speech(collection, blue.id, [SpeechSegment(0, 2, "a blue thing")], model="recognizer")
    signals = search_hits(collection, models[0], "a blue thing")[0].signals
    bound = (signals["visual"].score + signals["audio"].score) / 2
    (hit,) = search_hits(collection, models[0], "a blue thing", min_similarity=bound)
    assert set(hit.signals) == {"audio", "name", "speech"}


def test_a_clip_that_meets_all_conditions_ranks_above_a_sound_that_meets_one(
    library: CollectionStore, models: tuple[Model, Model]
) -> None:
    collection = library.create("mixed", models[0])
    red, green = models[0].embed_text(["a red thing", "a green thing"])
    clips = {"both": (red + green, None), "heard": (None, red), "seen and heard": (green, red)}
    for number, (title, (pictures, sound)) in enumerate(clips.items()):
        tokens = None if pictures is None else np.zeros(collection.token_shapes["visual"])
        size = (0, 0) if pictures is None else (8, 8)
        clip = NewClip(0, 8, pictures, tokens, audio_embedding=sound)
        collection.add_video(NewVideo(content(number), f"/{number}.mp4", title, 8.0, *size), [clip])
    parts = [text_part(models[0], "a red thing"), text_part(models[0], "a green thing")]
    hits = search_hits(collection, models[0], *parts, calibration=Calibration(similarity_scale=12, similarity_bias=-6))
    met = {hit.hit.video.title: [condition.met for condition in hit.conditions or ()] for hit in hits}
    assert list(met.items()) == [("seen and heard", [True, True]), ("both", [True, True]), ("heard", [True, False])]


def test_evidence_of_sound_depends_on_no_clips_without_sound(
    library: CollectionStore, models: tuple[Model, Model]
) -> None:
    rng, text = np.random.default_rng(1), "a red thing"
    sounds = rng.standard_normal((40, len(models[0].embed_text([text])[0])))
    relevance = []
    for name, silent in (("alone", 0), ("late", 960)):
        collection = library.create(name, models[0])
        tokens = np.zeros(collection.token_shapes["visual"])
        clips = [NewClip(n, n + 1, sounds[0], tokens) for n in range(silent)]
        clips += [
            NewClip(silent + n, silent + n + 1, sounds[0], tokens, audio_embedding=each)
            for n, each in enumerate(sounds)
        ]
        collection.add_video(NewVideo(content(1), "/1.mp4", "a", 1000.0, 8, 8), clips)
        calibration = Calibration(similarity_scale=12, similarity_bias=-6)
        hits = search_hits(collection, models[0], text, signals={"audio": 1}, calibration=calibration)
        relevance.append([hit.relevance for hit in hits])
    assert relevance[0] == pytest.approx(relevance[1])
    with collection.catalogue.read() as connection:
        for count in (7, 30, 1000):
            sample = sample_embeddings(connection, sounds.shape[1], 1000, count, "audio")
            assert len(sample) == min(count, 40)


def test_a_text_and_a_clip_are_searched_in_pictures_and_sound(
    library: CollectionStore, models: tuple[Model, Model]
) -> None:
    collection = library.open("videos")
    embedded: dict[SearchSignal, float] = {"visual": 1, "audio": 1}
    for rerank in (0, 5):
        best = search_hits(collection, models[0], "a blue thing", signals=embedded, rerank=rerank)[0]
        assert (best.hit.video.title, best.signals["audio"].rank) == ("blue", 1)
        assert best.signals["audio"].score > best.similarity == best.signals["visual"].score
    best = search_hits(collection, models[0], "a red thing", signals={"audio": 1})[0]
    assert (best.hit.video.title, best.similarity) == ("red", best.signals["audio"].score)
    red, blue = (next(v.id for v in collection.videos() if v.title == title) for title in ("red", "blue"))
    clip = collection.clips(red)[0].id
    assert search_hits(collection, models[0], ClipPart(clip))[0].signals.keys() <= {"visual", "audio"}
    with pytest.raises(InvalidInput, match=rf"query\.0\.signal: 'visual'; clip {clip} has no pictures"):
        search_hits(collection, models[0], ClipPart(clip, signal="visual"))
    heard = ClipPart(collection.clips(blue)[0].id, signal="audio")
    assert search_hits(collection, models[0], heard, include_query_clips=True)[0].hit.video.id == blue


def test_reranking_matches_pictures_and_sound_and_keeps_the_evidence_of_the_search(
    library: CollectionStore, models: tuple[Model, Model]
) -> None:
    collection, model, text = library.open("videos"), models[0], "a blue thing"
    hits = {hit.hit.video.title: hit for hit in search_hits(collection, model, text, rerank=5)}
    assert next(iter(hits)) == "blue"
    assert hits["red"].match is None  # it has no pictures
    blue, green = hits["blue"], hits["green"]
    visual = collection.visual_tokens([blue.hit.clip_id, green.hit.clip_id])
    heard = collection.stored_tokens([blue.hit.clip_id], "audio")[blue.hit.clip_id]
    by_both, by_pictures = model.match([text], visual[:1], heard[None]), model.match([text] * 2, visual)
    assert blue.match == pytest.approx(by_both.probabilities[0], abs=1e-6)
    assert green.match == pytest.approx(by_pictures.probabilities[1], abs=1e-6)
    evidence = 0.3 * (1 + blue.signals["audio"].score)  # more than that of its grey pictures
    odds = evidence / (1 - evidence) * np.exp(0.5 * by_both.logits[0])
    assert blue.fused == pytest.approx(odds / (1 + odds), abs=1e-5)
    fused = model.fused_score(np.array([green.similarity]), by_pictures.logits[1:])
    assert green.fused == pytest.approx(fused[0], abs=1e-5)
    seen = next(h for h in search_hits(collection, model, text, rerank=5, signals={"visual": 1}) if h.hit == blue.hit)
    assert seen.match == pytest.approx(by_pictures.probabilities[0], abs=1e-6)
    pairs = [(text, collection.clips_by_id([hit.hit.clip_id])) for hit in (blue, green)]
    scored = score_best_clips(collection, model, pairs, {text: model.embed_text([text])[0]})
    for hit, alone in zip((blue, green), scored, strict=True):
        assert alone is not None
        assert alone.scores is not None
        assert alone.scores[:2] == pytest.approx((hit.match, hit.fused), abs=1e-5)


def default_counts(collection: Collection, model: Model) -> list[int]:
    """The number of clips that a search by a text reranks by default in all signals, in pictures, in sound."""
    parts, stored = [text_part(model, "a blue thing")], stores_audio_tokens(collection)
    signals: list[list[SearchSignal] | None] = [None, ["visual"], ["audio"]]
    return [default_rerank(model.bundle.manifest, parts, each, stored) for each in signals]


def test_a_deleted_video_leaves_no_sound(library: CollectionStore, models: tuple[Model, Model]) -> None:
    collection = library.open("videos")
    assert titles(collection, models[0], "blue", "audio")[0] == "blue"  # is in memory
    collection.delete_video(next(video.id for video in collection.videos() if video.title == "blue"))
    assert titles(collection, models[0], "blue", "audio") == ["red"]
    with collection.catalogue.read() as connection:
        assert connection.execute("SELECT count(*) FROM audio_vectors").fetchone() == (1,)


def test_indexes_are_built_again_if_they_are_missing_damaged_or_exchanged(
    library: CollectionStore, models: tuple[Model, Model]
) -> None:
    library.open("videos").close()
    visual, audio = (library.root / "videos" / SNAPSHOT_NAMES[signal] for signal in ("visual", "audio"))
    audio.unlink()
    check(library.open("videos"), models[0])
    library.open("videos").close()
    visual_bytes, audio_bytes = visual.read_bytes(), audio.read_bytes()
    visual.write_bytes(audio_bytes)
    audio.write_bytes(visual_bytes)
    check(library.open("videos"), models[0])
    library.open("videos").close()
    audio.write_bytes(b"damaged")
    check(library.open("videos"), models[0])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("DELETE FROM vectors WHERE clip_id = (SELECT min(clip_id) FROM vectors)", "1 of .* clips have no vector"),
        ("UPDATE vectors SET vector = x''", "a vector is not .* float32 numbers"),
    ],
)
def test_missing_embeddings_of_pictures_are_not_exported_as_those_of_sound_files(
    damage: str, message: str, tmp_path: Path, library: CollectionStore
) -> None:
    collection = library.open("videos")
    with collection.catalogue.write() as connection:
        connection.execute(damage)
    with pytest.raises(StorageError, match=message):
        export_collection(collection, tmp_path / "export", tokens=False, thumbnails=False)
    assert not (tmp_path / "export").exists()


def test_backup_restore_export_and_import_keep_both_signals(
    tmp_path: Path, library: CollectionStore, models: tuple[Model, Model], sounds: Path
) -> None:
    collection, allowed = library.open("videos"), AllowedPaths([sounds], tmp_path / "data")
    backup_collection(collection, tmp_path / "backup")
    check(restore_collection(library, tmp_path / "backup", "restored", allowed=allowed), models[0])
    export_collection(collection, tmp_path / "export", tokens=True, thumbnails=True)
    manifest = models[0].bundle.manifest
    check(import_collection(library, tmp_path / "export", "imported", manifest, allowed=allowed), models[0])
    with pytest.raises(InvalidInput, match=r"vectors: .* have no audio signal"):
        restore_collection(library, tmp_path / "backup", "other", allowed=allowed, vectors="http://milvus:19530")


def test_reembedding_embeds_sound_too(library: CollectionStore, models: tuple[Model, Model]) -> None:
    assert reembed(library, "videos", models[1]).replaced
    check(library.open("videos"), models[1])


def test_an_older_collection_gets_audio_tokens_by_embedding_it_again(
    library: CollectionStore, models: tuple[Model, Model], sounds: Path
) -> None:
    with closing(sqlite3.connect(library.root / "videos" / CATALOGUE_NAME)) as connection, connection:
        connection.execute("DELETE FROM meta WHERE key IN ('audio_tokens', 'audio_width')")
        connection.execute("DELETE FROM audio_tokens")
    collection = library.open("videos")
    collection.delete_video(next(video.id for video in collection.videos() if video.title == "blue"))
    added = ingest_file(collection, models[0], sounds / "blue.mkv").video
    assert list(collection.stored_tokens([collection.clips(added.id)[0].id], "audio").values()) == [None]
    assert default_counts(collection, models[0]) == [0, 0, 0]
    assert reembed(library, "videos", models[0]).replaced
    check(library.open("videos"), models[0])
    assert default_counts(library.open("videos"), models[0]) == [3, 0, 0]
    with pytest.raises(InvalidInput, match="filled collection videos already"):
        reembed(library, "videos", models[0])


def test_without_sound_in_the_bundle_a_sound_file_is_refused(
    library: CollectionStore, small_model: Model, sounds: Path
) -> None:
    collection = library.create("pictures", small_model)
    with pytest.raises(MediaUnsupported, match="audio only"):
        ingest_file(collection, small_model, sounds / "red.wav")
    ingest_file(collection, small_model, sounds / "blue.mkv")
    assert collection.signals == ("visual",)
    with pytest.raises(InvalidInput, match=r"signals: 'audio'; visual was expected in pictures, as bundle .* no sound"):
        titles(collection, small_model, "blue", "audio")


def test_a_collection_in_milvus_has_no_audio_signal(
    library: CollectionStore, models: tuple[Model, Model], tmp_path: Path
) -> None:
    library.create("videos-2", models[0]).close()
    with closing(sqlite3.connect(library.root / "videos-2" / CATALOGUE_NAME)) as connection, connection:
        connection.execute("UPDATE meta SET value = 'http://milvus:19530' WHERE key = ?", (BACKEND_KEY,))
        connection.execute("DELETE FROM meta WHERE key = 'signals'")
    with pytest.raises(InvalidInput, match="as collections whose vectors are in Milvus have no audio signal"):
        library.open("videos-2").require_signals(["audio"])


def test_only_clips_of_pictures_have_a_visual_embedding(library: CollectionStore) -> None:
    collection = library.open("videos")
    vector, tokens = np.ones(16), np.zeros(collection.token_shapes["visual"])
    for width, clip in ((0, NewClip(0, 1, vector, tokens)), (64, NewClip(0, 1, None, None, audio_embedding=vector))):
        with pytest.raises(InvalidInput, match=r"embedding: .* was expected of a video with pictures"):
            collection.add_video(NewVideo("a" * 64, "/a.mp4", "a", 1.0, width, width), [clip])


def test_sound_that_cannot_be_decoded_is_left_out_of_a_file_with_pictures(
    library: CollectionStore, models: tuple[Model, Model], sounds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = library.create("broken", models[0])

    def fail(*_: object) -> None:
        raise MediaError("sound: damaged")

    monkeypatch.setattr(models[0], "embed_audio_file", fail)
    with pytest.raises(MediaError, match="damaged"):
        ingest_file(collection, models[0], sounds / "red.wav")
    ingest_file(collection, models[0], sounds / "blue.mkv")
    assert (collection.stats().videos, titles(collection, models[0], "blue", "audio")) == (1, [])


def test_a_collection_of_sounds_alone(sounds: Path, tmp_path: Path) -> None:
    """A bundle without a video graph embeds the sound of every file, also of those with pictures."""
    bundle = make_small_bundle(tmp_path / "bundle", tasks=["audio_retrieval"])
    model = Model.open(bundle)
    with CollectionStore(tmp_path / "collections") as library:
        collection = library.create("sounds", model)
        assert collection.signals == ("audio",)
        job = create_folder_job(collection, sounds)
        run_job(collection, model, job.id)
        reasons = {Path(item.path).name: (item.state, item.reason) for item in list_items(collection, job.id)}
        assert {name for name, (state, _) in reasons.items() if state == "succeeded"} == {"red.wav", "blue.mkv"}
        assert "no sound; a file with sound was expected" in str(reasons["green.mp4"][1])
        backup_collection(collection, tmp_path / "backup")
        export_collection(collection, tmp_path / "export", tokens=True, thumbnails=True)
        allowed = AllowedPaths([sounds], tmp_path / "data")
        manifest = model.bundle.manifest
        restored = restore_collection(library, tmp_path / "backup", "restored", allowed=allowed)
        imported = import_collection(library, tmp_path / "export", "imported", manifest, allowed=allowed)
        for each in (collection, restored, imported):
            for colour, title in (("red", "red"), ("blue", "blue")):
                assert search_hits(each, model, f"a {colour} thing")[0].hit.video.title == title
        with pytest.raises(InvalidInput, match=r"'visual'; audio was expected in sounds, as bundle .* no pictures"):
            search_hits(collection, model, "a red thing", signals={"visual": 1})
