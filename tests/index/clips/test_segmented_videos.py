"""Files segmented by every rule, up to what the collection stores."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from index.clips.segmentation import Rule, Segmentation, segment_file
from index.collection import Collection
from index.jobs.jobs import get_job, list_items
from index.jobs.runner import run_job
from tests.index.jobs.fixtures import create_folder_job, ingest_file
from tests.media_files import (
    moving_shot,
    solid,
    write_color_video,
    write_picture,
    write_subtitled_video,
    write_video,
)
from vitascope.errors import InvalidInput
from vitascope.model import Model

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
SRT = """1
00:00:00,000 --> 00:00:01,500
A red thing comes.

2
00:00:02,100 --> 00:00:03,900
Now it is green.
"""


def three_colors(path: Path, width: int = 96, height: int = 64) -> Path:
    """Two seconds each of red, green and blue."""
    return write_video(path, [solid(c, width, height) for c in (RED, GREEN, BLUE) for _ in range(20)], rate=10)


def color_of(jpeg: bytes) -> tuple[str, tuple[int, int]]:
    picture = Image.open(io.BytesIO(jpeg))
    assert picture.format == "JPEG"
    return ("red", "green", "blue")[int(np.asarray(picture).mean(axis=(0, 1)).argmax())], picture.size


def test_shots_become_clips_with_thumbnails_and_words(
    tmp_path: Path, collection: Collection, small_model: Model
) -> None:
    path = three_colors(tmp_path / "film.mp4", 400, 200)
    path.with_suffix(".srt").write_text(SRT)
    added = ingest_file(collection, small_model, path, segmentation=Segmentation(rule="shots"))
    assert added.notes == ()
    clips = collection.clips(added.video.id)
    assert [time for clip in clips for time in (clip.start, clip.end)] == pytest.approx([0, 2, 2, 4, 4, 6], abs=0.1)
    assert [clip.text for clip in clips] == ["A red thing comes.", "Now it is green.", ""]
    for clip, color in zip(clips, ("red", "green", "blue"), strict=True):
        assert collection.search(small_model.embed_text([f"a {color} thing"])[0], 1)[0].clip_id == clip.id
        jpeg = collection.thumbnail(clip.id)
        assert jpeg is not None
        assert color_of(jpeg) == (color, (320, 160))
        assert collection.thumbnail_at(added.video.id, float(f"{(clip.start + clip.end) / 2:.6g}")) == jpeg
    assert collection.thumbnail_at(added.video.id, 2.0) is None


def test_the_thumbnail_of_an_image_has_its_size(tmp_path: Path, collection: Collection, small_model: Model) -> None:
    path = write_picture(tmp_path / "p.png", solid(BLUE, 50, 40))
    for rule in ("windows", "shots", "subtitles"):
        assert segment_file(path, 0.0, Segmentation(rule=rule)).spans == [(0.0, 0.0)]
    [clip] = collection.clips(ingest_file(collection, small_model, path).video.id)
    jpeg = collection.thumbnail(clip.id)
    assert jpeg is not None
    assert color_of(jpeg) == ("blue", (50, 40))


def test_shots_are_merged_and_split(tmp_path: Path) -> None:
    frames = [*moving_shot(1, 4), *moving_shot(2, 36), *moving_shot(3, 20)]
    path = write_video(tmp_path / "a.mp4", frames, rate=10)
    spans = segment_file(path, 6.0, Segmentation(rule="shots", shortest=1.0, longest=3.0)).spans
    assert [time for span in spans for time in span] == pytest.approx([0, 2, 2, 4, 4, 6], abs=0.1)


def test_sentences_become_clips(tmp_path: Path, collection: Collection, small_model: Model) -> None:
    cues = [(0.0, 1.5, "A red thing comes."), (2.1, 3.9, "Now it is green.")]
    frames = [solid(color) for color in (RED, GREEN, BLUE) for _ in range(20)]
    path = write_subtitled_video(tmp_path / "a.mkv", frames, [("subrip", "eng", cues)])
    rule = Segmentation(rule="subtitles", shortest=1.0, longest=4.0, length=2.0)
    added = ingest_file(collection, small_model, path, segmentation=rule)
    clips = collection.clips(added.video.id)
    assert [time for clip in clips for time in (clip.start, clip.end)] == pytest.approx([0, 1.8, 1.8, 3.9, 3.9, 6])
    assert [clip.text for clip in clips] == ["A red thing comes.", "Now it is green.", ""]


def test_without_subtitles_windows_are_used_and_a_note_says_so(
    tmp_path: Path, collection: Collection, small_model: Model
) -> None:
    path = three_colors(tmp_path / "a.mp4")
    rule = Segmentation(rule="subtitles", length=3.0)
    added = ingest_file(collection, small_model, path, segmentation=rule)
    assert added.notes == ("no subtitles; cut into windows of 3 s",)
    assert [(clip.start, clip.end) for clip in collection.clips(added.video.id)] == [(0.0, 3.0), (3.0, 6.0)]


@pytest.mark.parametrize("rule", ["windows", "subtitles", "shots"])
def test_broken_subtitles_are_reported_and_the_video_is_indexed(
    tmp_path: Path, collection: Collection, small_model: Model, rule: Rule
) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    write_color_video(folder / "a.mp4", RED)
    (folder / "a.srt").write_text("1\n00:00:0x,000 --> 00:00:02,000\nhi\n")
    write_color_video(folder / "b.mp4", GREEN)
    (folder / "b.srt").write_text(SRT)
    segmentation = Segmentation(rule=rule, language="en")
    job = create_folder_job(collection, folder, segmentation=segmentation)
    assert job.options.segmentation == segmentation
    done = run_job(collection, small_model, job.id)
    assert (done.counts.succeeded, done.counts.failed) == (2, 0)
    reasons = {Path(item.path).name: item.reason or "" for item in list_items(collection, job.id, "succeeded")}
    assert reasons["a.mp4"].startswith("a.srt:2: time: '00:00:0x,000'; HH:MM:SS,mmm was expected")
    assert reasons["b.mp4"] == "b.srt: 1 of 2 cues begin after the end of the video (2.00 s) and are left out"
    said = {video.title: [clip.text for clip in collection.clips(video.id)] for video in collection.videos()}
    assert said == {"a": [""], "b": ["A red thing comes."]}


def test_jobs_of_earlier_versions_keep_their_segmentation(tmp_path: Path, collection: Collection) -> None:
    job = create_folder_job(collection, tmp_path)
    stored = {"recursive": True, "metadata": {}, "segmentation": {"length": 5.0, "overlap": 1.0, "shortest": None}}
    with collection.catalogue.write() as connection:
        connection.execute("UPDATE jobs SET options = ? WHERE id = ?", (json.dumps(stored), job.id))
    assert get_job(collection, job.id).options.segmentation == Segmentation(length=5.0, overlap=1.0)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"rule": "scenes"}, "rule: 'scenes'; one of windows, shots, subtitles"),
        ({"rule": "shots", "longest": 0.0}, "longest: 0.0"),
        ({"rule": "shots", "shortest": 9.0}, r"shortest: 9.0; 0 <= shortest <= half of longest \(16.0\)"),
        ({"language": "English!"}, "language: 'English!'; a code such as en"),
    ],
)
def test_an_invalid_option_is_rejected_by_name(options: dict[str, object], named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        Segmentation(**options)  # type: ignore[arg-type]
