"""Spans of clips by every rule, and the words spoken in each, up to the stored clips of files."""

from __future__ import annotations

import io
import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from index.clips.rules import Rule, Segmentation
from index.clips.segmentation import (
    MAX_CLIPS,
    segment_file,
    sentence_spans,
    window_spans,
)
from index.clips.subtitles import clip_cues
from index.clips.timed_text import MAX_OVERLAPPING_CUES, text_per_span
from index.collection import Collection
from index.jobs.jobs import get_job, list_items
from index.jobs.runner import run_job
from index.records import MAX_TEXT_LENGTH, check_text
from tests.index.jobs.fixtures import create_folder_job, ingest_file
from tests.media_files import (
    moving_shot,
    solid,
    write_color_video,
    write_picture,
    write_subtitled_video,
    write_video,
)
from vitascope.errors import InvalidInput, MediaCorrupt
from vitascope.media.subtitles import Cue
from vitascope.model import Model
from vitascope.sandbox.decoder import InProcessDecoder

RULE = Segmentation(rule="subtitles", shortest=4.0, longest=16.0, length=8.0)


@pytest.mark.parametrize(
    ("duration", "options", "spans"),
    [
        (0.0, {}, [(0.0, 0.0)]),
        (2.5, {}, [(0.0, 2.5)]),
        (24.0, {}, [(0.0, 8.0), (8.0, 16.0), (16.0, 24.0)]),
        (18.0, {}, [(0.0, 8.0), (8.0, 18.0)]),
        (21.0, {}, [(0.0, 8.0), (8.0, 16.0), (16.0, 21.0)]),
        (17.0, {"shortest": 1.0}, [(0.0, 8.0), (8.0, 16.0), (16.0, 17.0)]),
        (20.0, {"overlap": 2.0}, [(0.0, 8.0), (6.0, 14.0), (12.0, 20.0)]),
    ],
    ids=["image", "short video", "whole windows", "short remainder", "long remainder", "shortest", "overlap"],
)
def test_windows_cover_a_video(duration: float, options: dict[str, float], spans: list[tuple[float, float]]) -> None:
    assert window_spans(duration, length=8.0, **options) == spans


@given(
    st.floats(0.01, 1200),
    st.floats(0.5, 60),
    st.floats(0, 0.9),
    st.one_of(st.none(), st.floats(0, 1)),
)
def test_every_moment_is_in_a_clip_and_every_clip_has_a_length(
    duration: float, length: float, share: float, shortest_share: float | None
) -> None:
    assume(duration < 0.9 * MAX_CLIPS * length * (1 - share))  # more clips are refused, by a test of its own
    shortest = None if shortest_share is None else shortest_share * length
    spans = window_spans(duration, length, share * length, shortest)
    assert spans[0][0] == 0
    assert spans[-1][1] == duration
    assert all(start < end for start, end in spans)
    assert all(end - start <= 2 * length + 1e-6 for start, end in spans)
    for (start, end), (next_start, next_end) in pairwise(spans):
        assert start < next_start <= end + 1e-9
        assert end < next_end or math.isclose(end, next_end)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0.0}, "length: 0.0"),
        ({"length": math.nan}, "length: nan"),
        ({"overlap": 8.0}, "overlap: 8.0"),
        ({"overlap": -1.0}, "overlap: -1.0"),
        ({"shortest": 9.0}, "shortest: 9.0"),
        ({"rule": "scenes"}, "rule: 'scenes'; one of auto, windows, shots, subtitles"),
        ({"rule": "auto", "shortest": 8.5, "longest": 20.0}, "shortest: 8.5; 0 <= shortest <= length"),
        ({"rule": "auto", "shortest": 8.0, "longest": 12.0}, r"shortest: 8.0; 0 <= shortest <= half of longest"),
        ({"rule": "shots", "longest": 0.0}, "longest: 0.0"),
        ({"rule": "shots", "shortest": 9.0}, r"shortest: 9.0; 0 <= shortest <= half of longest \(16.0\)"),
        ({"language": "English!"}, "language: 'English!'; a code such as en"),
    ],
)
def test_an_invalid_option_is_rejected_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Segmentation(**options)


@pytest.mark.parametrize(
    ("duration", "length", "message"),
    [(-1.0, 8.0, "duration"), (math.inf, 8.0, "duration"), (7200.0, 0.01, str(MAX_CLIPS))],
)
def test_an_invalid_duration_or_too_many_windows_are_rejected(duration: float, length: float, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        window_spans(duration, length)


def test_spans_end_between_sentences() -> None:
    cues = [Cue(0, 3, "A cat sits"), Cue(3, 5, "on a mat."), Cue(6, 9, "Then it"), Cue(9, 12, "goes away.")]
    assert sentence_spans(cues, 12.0, RULE) == [(0.0, 5.5), (5.5, 12.0)]


def test_short_sentences_are_merged() -> None:
    cues = [Cue(n, n + 1, "No.") for n in range(10)]
    assert sentence_spans(cues, 10.0, RULE) == [(0.0, 4.0), (4.0, 10.0)]


def test_without_punctuation_each_cue_is_a_sentence() -> None:
    cues = [Cue(5.0 * n, 5.0 * n + 5, "and so on") for n in range(4)]
    assert sentence_spans(cues, 20.0, RULE) == [(0.0, 5.0), (5.0, 10.0), (10.0, 15.0), (15.0, 20.0)]


def test_a_long_pause_is_covered_by_windows() -> None:
    cues = [Cue(0, 6, "At first."), Cue(40, 46, "At last.")]
    spans = sentence_spans(cues, 60.0, RULE)
    assert spans == [(0.0, 6.0), (6.0, 14.0), (14.0, 22.0), (22.0, 30.0), (30.0, 40.0), (40.0, 46.0), *spans[6:]]
    assert spans[6:] == [(46.0, 54.0), (54.0, 60.0)]


def test_too_long_sentences_are_split_into_equal_parts() -> None:
    spans = sentence_spans([Cue(0, 40, "Oh!")], 40.0, RULE)
    assert [end - start for start, end in spans] == pytest.approx([40 / 3] * 3)


@given(
    st.lists(st.tuples(st.floats(0, 300), st.floats(0, 25), st.sampled_from(["and", "no.", "is it?"])), max_size=40),
    st.floats(0.5, 250),
    st.floats(0, 6),
    st.floats(12, 40),
)
def test_sentence_spans_cover_the_video_within_the_longest_length(
    spoken: list[tuple[float, float, str]], duration: float, shortest: float, longest: float
) -> None:
    cues = clip_cues(sorted((Cue(s, s + d, t) for s, d, t in spoken), key=lambda cue: (cue.start, cue.end)), duration)
    spans = sentence_spans(cues, duration, Segmentation(rule="subtitles", shortest=shortest, longest=longest))
    assert (spans[0][0], spans[-1][1]) == (0, duration)
    assert all(start < end <= start + longest * (1 + 1e-6) for start, end in spans)
    assert all(before[1] == after[0] for before, after in pairwise(spans))
    texts = text_per_span(cues, spans)
    for cue in cues:
        assert any(cue.text in text for text in texts)


def test_a_clip_has_the_words_that_overlap_it() -> None:
    cues = [Cue(0, 2, "one"), Cue(1.5, 5, "two"), Cue(4.95, 5.0, "three"), Cue(5.0, 5.0, "now"), Cue(7.95, 9, "four")]
    assert text_per_span(cues, [(0, 2), (2, 5), (5, 8), (8, 10)]) == ["one two", "two three", "now", "four"]


def test_windows_that_overlap_share_words() -> None:
    cues = [Cue(0, 2, "one"), Cue(3, 5, "two"), Cue(6, 8, "three")]
    assert text_per_span(cues, [(0, 4), (2, 6), (4, 8)]) == ["one two", "two", "two three"]


def test_long_text_is_truncated_at_a_word_and_can_be_stored() -> None:
    cues = [Cue(n, n + 1, "wörds\x00 \ud800of" if n % 2 else "a clip") for n in range(3000)]
    [text] = text_per_span(cues, [(0, 3000)])
    assert MAX_TEXT_LENGTH - 10 < len(text) <= MAX_TEXT_LENGTH
    assert text.split()[-1] in ("wörds", "of", "a", "clip")
    assert check_text("text", text) == text
    assert text_per_span([Cue(0, 1, "x" * 20_000)], [(0, 1)]) == ["x" * MAX_TEXT_LENGTH]


def test_cues_that_never_end_are_limited_in_every_clip() -> None:
    cues = [Cue(0.01 * n, 10_000.0, "on") for n in range(500)]
    counts = [len(text.split()) for text in text_per_span(cues, [(float(n), n + 1.0) for n in range(10)])]
    assert all(50 < count <= MAX_OVERLAPPING_CUES + 100 for count in counts)
    assert counts[6:] == [MAX_OVERLAPPING_CUES] * 4


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


def test_auto_cuts_edited_videos_into_shots_and_says_so_and_others_into_windows(
    tmp_path: Path, collection: Collection, small_model: Model
) -> None:
    rule = Segmentation(rule="auto", length=4.0)
    edited = [frame for seed, count in enumerate((30, 55, 70)) for frame in moving_shot(seed, count)]
    camera = moving_shot(4, 155, speed=1)
    added = {
        name: ingest_file(
            collection, small_model, write_video(tmp_path / f"{name}.mp4", frames, rate=10), segmentation=rule
        )
        for name, frames in (("edited", edited), ("camera", camera), ("short", edited[:50]))
    }
    spans = {
        name: [time for clip in collection.clips(added_file.video.id) for time in (clip.start, clip.end)]
        for name, added_file in added.items()
    }
    assert spans["edited"] == pytest.approx([0, 3, 3, 8.5, 8.5, 15.5], abs=0.1)
    assert spans["camera"] == pytest.approx([0, 4, 4, 8, 8, 12, 12, 15.5])
    assert spans["short"] == pytest.approx([0, 5])
    assert {name: added_file.notes for name, added_file in added.items()} == {
        "edited": ("edited; cut at its shots into 3 clips",),
        "camera": (),
        "short": (),
    }


def test_auto_uses_windows_where_shots_cannot_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MediaCorrupt("a.mp4: too slow")

    monkeypatch.setattr(InProcessDecoder, "shot_starts", fail)
    path = write_video(tmp_path / "a.mp4", moving_shot(1, 40), rate=10)
    segments = segment_file(path, 4.0, Segmentation(rule="auto", length=2.0))
    assert segments.spans == [(0.0, 2.0), (2.0, 4.0)]
    assert segments.notes == ("cut into windows of 2 s, as its shots cannot be found: a.mp4: too slow",)


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


@pytest.mark.parametrize("rule", ["auto", "windows", "subtitles", "shots"])
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
    texts = {video.title: [clip.text for clip in collection.clips(video.id)] for video in collection.videos()}
    assert texts == {"a": [""], "b": ["A red thing comes."]}


def test_jobs_of_earlier_versions_keep_their_segmentation(tmp_path: Path, collection: Collection) -> None:
    job = create_folder_job(collection, tmp_path)
    stored = {"recursive": True, "metadata": {}, "segmentation": {"length": 5.0, "overlap": 1.0, "shortest": None}}
    with collection.catalogue.write() as connection:
        connection.execute("UPDATE jobs SET options = ? WHERE id = ?", (json.dumps(stored), job.id))
    assert get_job(collection, job.id).options.segmentation == Segmentation(length=5.0, overlap=1.0)
