"""Long drawn scenes: exact moments, known negatives, and files that the reader of QVHighlights reads."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from random import Random

import numpy as np
import pytest

from training.data.scenes.render import encode
from training.data.scenes.world import FPS, World
from training.moments import scenes
from training.moments.annotations import READERS
from training.moments.scenes import EVENT_SECONDS, EVENTS, SECONDS, sample_long_world, sentences_of
from vitascope.media.decode import probe, read_frames


def events_of(world: World) -> list[tuple[float, float]]:
    return sorted((event.start, event.end) for thing in world.things for event in thing.events)


def test_scenes_have_many_events_that_overlap_and_repeat() -> None:
    overlapping = repeated = 0
    for index in range(5):
        world, seconds = sample_long_world(0, "train", index)
        assert sample_long_world(0, "train", index) == (world, seconds)
        assert not world.held_out
        events = events_of(world)
        assert SECONDS[0] <= seconds <= SECONDS[1]
        assert EVENTS["train"][0] <= len(events) <= EVENTS["train"][1]
        assert all(EVENT_SECONDS[0] - 0.01 <= end - start <= EVENT_SECONDS[1] + 0.01 for start, end in events)
        assert events[-1][1] < seconds
        overlapping += sum(later[0] < earlier[1] for earlier, later in pairwise(events))
        repeated += sum(len(spans) > 1 for _, spans in sentences_of(world, "val", Random(index)))
    assert overlapping > 20
    assert repeated > 5


def test_sentences_have_the_times_of_events_and_negatives_have_none() -> None:
    for index in range(5):
        world, _ = sample_long_world(1, "test", index)
        sentences = sentences_of(world, "test", Random(index))
        edges = set(np.ravel(events_of(world)).tolist())
        positive = [(text, spans) for text, spans in sentences if spans]
        assert len(positive) >= 5
        assert 1 <= len(sentences) - len(positive) <= scenes.AMOUNTS["test"].negative
        for _, spans in positive:
            assert set(np.ravel(spans).tolist()) <= edges
            assert all(earlier[1] < later[0] for earlier, later in pairwise(spans))


def test_objects_move_only_during_events(tmp_path: Path) -> None:
    index = next(i for i in range(50) if sample_long_world(0, "train", i)[0].shake == 0)
    world, _ = sample_long_world(0, "train", index)
    path, seconds = tmp_path / "scene.mp4", 20  # the beginning
    path.write_bytes(encode(world, frames=seconds * FPS))
    assert probe(path).duration == pytest.approx(seconds, abs=0.05)
    frames = np.stack(read_frames(path, [frame / FPS + 0.01 for frame in range(seconds * FPS)])).astype(np.int16)
    changed = np.abs(np.diff(frames, axis=0)).reshape(len(frames) - 1, -1)
    is_moving = (changed > 25).sum(axis=1) > 20  # compression changes many pixels a little
    times = np.arange(1, len(frames)) / FPS
    inside = np.array([any(start < time < end + 1 / FPS for start, end in events_of(world)) for time in times])
    assert not is_moving[~inside].any()
    assert is_moving[inside].mean() > 0.3  # objects that fade change slowly


def test_the_command_writes_a_corpus_and_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenes, "encode", lambda world, frames: b"a film")

    def make(make_video: object, folder: Path, listing: Path, count: int, workers: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        assert callable(make_video)
        listing.write_text("".join(f"{make_video(index)}\n" for index in range(count)))

    monkeypatch.setattr(scenes, "make_split", make)  # without processes, which would not see the film above
    arguments = ["--out", str(tmp_path), "--train", "2", "--val", "1", "--test", "1", "--seed", "3"]
    scenes.main(arguments)
    videos = list(READERS["moment_scenes"].read(tmp_path, "train"))
    assert [video.key for video in videos] == ["train_000000", "train_000001"]
    assert all(video.path.read_bytes() == b"a film" for video in videos)
    world, _ = sample_long_world(3, "train", 1)
    assert {span for query in videos[1].queries for span in query.spans} <= {
        (start, end) for start, _ in events_of(world) for _, end in events_of(world)
    }
    assert any(not query.spans for query in videos[1].queries)
    videos[0].path.write_bytes(b"kept")
    scenes.main(arguments)
    assert videos[0].path.read_bytes() == b"kept"
    with pytest.raises(SystemExit, match="'seed': 3"):
        scenes.main([*arguments[:-1], "4"])
