"""Embeddings of windows and sentences: computed once by a bundle, resumed, and refused if they do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.small_bundle import make_small_bundle
from tests.training.moments.colour_films import WINDOW_SECONDS, write_films
from training.data.corpus import CorpusError
from training.moments import windows
from training.moments.annotations import READERS
from training.moments.evaluation import baselines, evaluate
from training.moments.windows import STORE_NAME, VIDEOS_NAME, WINDOWS_NAME, WindowStore, embed_split, open_store
from vitascope.errors import InvalidInput
from vitascope.model import Model


@pytest.fixture
def films(tmp_path: Path) -> Path:
    write_films(tmp_path / "films", "val", 3, seed=0)
    return tmp_path / "films"


def embed(model: Model, films: Path, **options: Any) -> WindowStore:
    options = {"window_seconds": WINDOW_SECONDS} | options
    return embed_split(model, "moment_scenes", READERS["moment_scenes"], films, "val", films / "store", **options)


def test_windows_are_embedded_as_clips_and_kept_as_float16(small_model: Model, films: Path) -> None:
    embed(small_model, films)
    store = open_store(films / "store")
    assert len(store) == 12
    embedded = store[5]
    video = next(v for v in READERS["moment_scenes"].read(films, "val") if v.key == "val1")
    spans = [(i * 0.5, (i + 1) * 0.5) for i in range(round(embedded.duration * 2))]
    expected = small_model.embed_video_file(video.path, spans).vectors
    np.testing.assert_allclose(embedded.windows, expected, atol=1e-3)
    np.testing.assert_allclose(embedded.text, small_model.embed_text([embedded.query.text])[0], atol=1e-3)
    start, end = embedded.query.spans[0]
    similarity = embedded.windows @ embedded.text
    inside = np.array([start <= (a + b) / 2 < end for a, b in spans])
    assert similarity[inside].min() > similarity[~inside].max()
    assert (films / "store" / WINDOWS_NAME).stat().st_size == 2 * store.info.width * store.first_window[-1]


def test_an_interrupted_run_continues(small_model: Model, films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = films / "highlight_val_release.jsonl"
    listing.write_text(listing.read_text().replace("thing", "thing\\u2028here\\u0085", 1))  # ends of lines in Unicode
    whole = embed(small_model, films)
    expected = np.array(whole.windows), np.array(whole.texts)
    for path in (films / "store").iterdir():
        path.unlink()
    calls: list[Path] = []
    embed_video = windows.embed_windows

    def stopping(model: Model, path: Path, *rest: Any) -> Any:
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return embed_video(model, path, *rest)

    monkeypatch.setattr(windows, "embed_windows", stopping)
    with pytest.raises(KeyboardInterrupt):
        embed(small_model, films)
    with pytest.raises(InvalidInput, match="embeddings are incomplete; `vitascope prepare-moments`"):
        open_store(films / "store")
    with (films / "store" / WINDOWS_NAME).open("ab") as file:
        file.write(b"half a row")
    with (films / "store" / VIDEOS_NAME).open("ab") as file:
        file.write('{"key":"caf\u00e9'.encode()[:-1])
    info = films / "store" / STORE_NAME
    info.write_text(info.read_text().replace("small-colours 1", "small-colours 0"))  # with the same fingerprint
    again = embed(small_model, films)
    assert [path.name for path in calls] == ["val0.mp4", "val1.mp4", "val1.mp4", "val2.mp4"]
    np.testing.assert_array_equal(again.windows, expected[0])
    np.testing.assert_array_equal(again.texts, expected[1])


def test_embeddings_of_another_bundle_or_annotation_are_refused(
    small_model: Model, films: Path, tmp_path: Path
) -> None:
    store = embed(small_model, films)
    other = Model.open(make_small_bundle(tmp_path / "other", seed=5), threads=1)
    with pytest.raises(InvalidInput, match=r"store: holds embeddings of another fingerprint \(of small-colours 1\)"):
        embed(other, films)
    with pytest.raises(InvalidInput, match="another window_seconds"):
        embed(small_model, films, window_seconds=1.0)
    store.require(small_model.bundle.fingerprint, WINDOW_SECONDS, "here")
    with pytest.raises(
        InvalidInput, match=r"moment_scenes/val: windows of 0.5 s .*windows of 2 s by the bundle of runs/m"
    ):
        store.require(small_model.bundle.fingerprint, 2.0, "runs/m")
    listing = films / "highlight_val_release.jsonl"
    first, *rest = listing.read_text().splitlines()
    listing.write_text("\n".join([json.dumps(json.loads(first) | {"relevant_windows": [[0, 0.5]]}), *rest]))
    with pytest.raises(InvalidInput, match="another annotation"):
        embed(small_model, films)
    (films / "store" / WINDOWS_NAME).write_bytes(b"short")
    with pytest.raises(InvalidInput, match=r"5 bytes; .* embeddings of 16 were expected"):
        open_store(films / "store")
    (films / "store" / STORE_NAME).write_bytes(b"{")
    with pytest.raises(InvalidInput, match=r"store\.json: damaged; what `vitascope prepare-moments` writes"):
        embed(small_model, films)


def test_unreadable_videos_are_listed_and_moments_after_the_end_missed(
    small_model: Model, films: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (films / "videos" / "val1.mp4").write_bytes(b"no film")
    with pytest.raises(CorpusError, match=r"1 of 3 videos of moment_scenes/val cannot be used, .* val1 \("):
        embed(small_model, films)
    listing = films / "highlight_val_release.jsonl"
    late = {"qid": 99, "query": "a red thing", "vid": "val2", "relevant_windows": [[0.5, 700], [800, 900]]}
    later = late | {"qid": 100, "relevant_windows": [[800, 900]]}
    before = listing.read_text() + json.dumps(late) + "\n"
    metrics = []
    for lines in (before, before + json.dumps(later) + "\n"):
        listing.write_text(lines)
        for path in (films / "store").iterdir():
            path.unlink()
        store = embed(small_model, films, max_skipped=0.5)
        metrics.append(evaluate(baselines()["fixed windows of 2 s"], store))
    assert "1 sentences have only moments after the end of their video, and count as missed: 100" in caplog.text
    count = sum(bool(query.spans) for video in store.videos for query in video.queries)
    for name in ("R1@0.5", "mAP", "mIoU", "HIT@1"):
        assert metrics[1][name] == pytest.approx(metrics[0][name] * count / (count + 1))
    assert [video.key for video in store.videos if video.skipped] == ["val1"]
    assert store[len(store) - 1].query.spans == ((0.5, store.videos[2].duration),)
