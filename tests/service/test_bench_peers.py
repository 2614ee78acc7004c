"""What `make bench-service` compares with is what it says: other libraries' frames are the same, other services' graphs
do the same work.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from benchmarks.ingest import write_film
from benchmarks.service.answers import FILMS, renew, write_answer_films
from benchmarks.service.decoding import measure
from benchmarks.service.peers import write_for_clip, write_for_infinity
from benchmarks.service.readers import Reader, other_readers, sampling_times
from vitascope.media.decode import read_frames
from vitascope.media.frame import Pixels
from vitascope.model import Model

TEXTS = ["a red square", "two small blue circles move to the left of a green one"]
SECONDS = 4.0


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("films") / "film.mp4"
    write_film(path, SECONDS, 1, 320, 180, gop=30)
    return path


def test_libraries_are_measured_on_the_requested_frames(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readers, missing = other_readers()

    def read_early(path: Path, times: Sequence[float]) -> Pixels:
        return readers[0].read(path, [time - 0.1 for time in times])

    wrong = Reader("early", "0.1 s too early", read_early)
    monkeypatch.setattr("benchmarks.service.decoding.other_readers", lambda: ([*readers, wrong], list(missing)))
    measurements, notes = measure(film, SECONDS, rounds=2)
    libraries = {measurement.reader.library for measurement in measurements}
    assert {"Vitascope", "PyAV"} <= libraries
    assert "early" not in libraries
    assert [m.reader.is_service for m in measurements if m.reader.is_ours] == [False, True]
    assert all(len(m.seconds) == 2 and m.difference < 5 for m in measurements)
    assert "early (0.1 s too early): 12 of 12 frames are not the requested ones" in notes


def test_frames_are_sampled_at_the_times_of_the_service() -> None:
    assert sampling_times(60.0, 12) == pytest.approx([2.5 + 5 * index for index in range(12)])


def test_a_renewed_film_is_another_file_of_the_same_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FILMS, "tiny", (1.0, 96, 64))
    for name in [name for name in FILMS if name != "tiny"]:
        monkeypatch.delitem(FILMS, name)
    path, seconds = write_answer_films(tmp_path)["tiny"]
    before, frames = hashlib.sha256(path.read_bytes()).digest(), read_frames(path, [0.1, seconds])
    renew(path, 1)
    assert hashlib.sha256(path.read_bytes()).digest() != before
    assert all(np.array_equal(one, two) for one, two in zip(frames, read_frames(path, [0.1, seconds]), strict=True))


def test_infinity_gives_our_vectors(small_model: Model, tmp_path: Path) -> None:
    write_for_infinity(small_model.bundle.folder, tmp_path)
    ids, mask = small_model.bundle.tokenizer().encode(TEXTS)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    [hidden] = session.run(None, {"input_ids": ids, "attention_mask": mask})
    assert hidden[:, 0] == pytest.approx(small_model.embed_text(TEXTS), abs=1e-5)


def test_clip_as_service_does_the_same_work(small_model: Model, tmp_path: Path) -> None:
    """Our own token numbers in its 77 places give our vectors; numbers beyond the vocabulary are brought into it."""
    write_for_clip(small_model.bundle.folder, tmp_path)
    ids, mask = small_model.bundle.tokenizer().encode(TEXTS)
    places = [np.zeros((len(TEXTS), 77), np.int32) for _ in range(2)]
    for wide, short in zip(places, (ids, mask), strict=True):
        wide[:, : short.shape[1]] = short
    session = onnxruntime.InferenceSession(tmp_path / "textual.onnx")
    [vectors] = session.run(None, {"input_ids": places[0], "attention_mask": places[1]})
    assert vectors == pytest.approx(small_model.embed_text(TEXTS), abs=1e-5)
    [vectors] = session.run(None, {"input_ids": places[0] + 49_000, "attention_mask": places[1]})
    assert np.isfinite(vectors).all()
    onnxruntime.InferenceSession(tmp_path / "visual.onnx")
