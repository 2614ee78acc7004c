from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.data.corpus_files import BLUE, GREEN, RED, key_frames, movie
from training.data.corpus import CorpusError, split_of
from training.data.hdvila100m import ORIGIN, hdvila100m
from training.data.packed import VIDEO_STREAMS, MediaSpan, open_packed, write_packed

VIDEO = "QMi8x8o55Ns"
SPLIT = split_of(VIDEO)
SPANS = [("00:00:00.000", "00:00:00.700"), ("00:00:00.700", "00:00:01.400"), ("01:02:03.250", "01:02:04.000")]


def metadata(video: str = VIDEO, spans: list[tuple[str, str]] = SPANS) -> dict[str, Any]:
    clips = [{"clip_id": f"{video}.{n}.mp4", "span": list(span)} for n, span in enumerate(spans)]
    return {"video_id": video, "url": f"https://www.youtube.com/watch?v={video}", "clip": clips}


def write(folder: Path, videos: list[dict[str, Any]], texts: dict[str, str]) -> Path:
    """Metadata and texts as the authors distribute them; each text is given by its clip_id."""
    folder.mkdir(exist_ok=True)
    (folder / "hdvila_part0.jsonl").write_text("".join(json.dumps(video) + "\n" for video in videos))
    lines = [json.dumps({"clip_id": clip, "text": text}) + "\n" for clip, text in texts.items()]
    (folder / "hdvila_text_part0.jsonl").write_text("".join(lines))
    return folder


def all_texts(video: str = VIDEO) -> dict[str, str]:
    return {f"{video}.{n}.mp4": f"words {n}" for n in range(len(SPANS))}


@pytest.mark.parametrize("place", [f"{VIDEO}.mp4", f"download_videos/{VIDEO}.mkv", f"videos/{VIDEO}.webm"])
def test_clips_are_spans_of_the_whole_video(tmp_path: Path, place: str) -> None:
    write(tmp_path, [metadata()], all_texts())
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    path.touch()
    read = list(hdvila100m(tmp_path, SPLIT))
    assert [(example.key, example.captions) for example, _ in read] == [
        (f"{VIDEO}.{n}", (f"words {n}",)) for n in range(3)
    ]
    assert [media for _, media in read] == [
        MediaSpan(path, 0.0, 0.7),
        MediaSpan(path, 0.7, 1.4),
        MediaSpan(path, 3723.25, 3724.0),
    ]
    assert read[2][0].attributes == {"video": VIDEO, "start": 3723.25, "end": 3724.0}


@pytest.mark.parametrize("place", [f"video_clips/{VIDEO}", "clips", "."])
def test_clips_that_were_cut_before_are_used_where_the_whole_video_is_missing(tmp_path: Path, place: str) -> None:
    write(tmp_path, [metadata()], all_texts())
    cut = tmp_path / place / f"{VIDEO}.1.mp4"
    cut.parent.mkdir(parents=True, exist_ok=True)
    cut.touch()
    media = [media for _, media in hdvila100m(tmp_path, SPLIT)]
    assert media[1] == cut
    assert all(isinstance(other, MediaSpan) and not other.path.exists() for other in (media[0], media[2]))
    (tmp_path / f"{VIDEO}.mp4").touch()
    assert all(isinstance(other, MediaSpan) for _, other in hdvila100m(tmp_path, SPLIT))


def test_all_clips_of_a_video_are_in_one_split(tmp_path: Path) -> None:
    videos = [f"video{n}" for n in range(60)]
    texts = {clip: text for video in videos for clip, text in all_texts(video).items()}
    write(tmp_path, [metadata(video) for video in videos], texts)
    seen = {s: [e.attributes["video"] for e, _ in hdvila100m(tmp_path, s)] for s in ("train", "val", "test")}
    assert sorted(video for actual in seen.values() for video in actual) == sorted(videos * 3)
    assert all(actual and len(set(actual)) * 3 == len(actual) for actual in seen.values())


def test_clips_without_text_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, [metadata()], {f"{VIDEO}.1.mp4": "some\nwords", f"{VIDEO}.2.mp4": " "})
    (tmp_path / f"{VIDEO}.mp4").touch()
    with caplog.at_level(logging.WARNING):
        ((example, _),) = hdvila100m(tmp_path, SPLIT)
    assert (example.key, example.captions) == (f"{VIDEO}.1", ("some words",))
    assert f"2 clips without text are left out: {VIDEO}.0, {VIDEO}.2" in caplog.text
    assert "missing" not in caplog.text


def test_a_packed_clip_shows_its_time_frame_accurately_and_missing_videos_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lost = next(name for name in map("lost{}".format, range(99)) if split_of(name) == SPLIT)
    spans = [*SPANS[:2], ("00:00:01.400", "00:00:02.100")]
    source = write(
        tmp_path / "source", [metadata(lost, SPANS[:1]), metadata(spans=spans)], all_texts() | all_texts(lost)
    )
    movie(source / f"{VIDEO}.mp4", [RED, GREEN, BLUE], frames_each=7, one_key_frame=True)
    assert key_frames(source / f"{VIDEO}.mp4") == 1
    with caplog.at_level(logging.WARNING):
        info = write_packed(tmp_path / "out", VIDEO_STREAMS, hdvila100m(source, SPLIT), ORIGIN, max_skipped=0.25)
    packed = open_packed(tmp_path / "out")
    assert [example.key for example in packed.examples] == [f"{VIDEO}.{n}" for n in range(3)]
    for row, color in enumerate([RED, GREEN, BLUE]):
        np.testing.assert_allclose(packed.arrays["low"][row].mean(axis=(1, 2)), [color] * 6, atol=12)
    ((key, reason),) = [(skipped["key"], skipped["reason"]) for skipped in info["skipped"]]
    assert key == f"{lost}.0"
    assert f"{lost}.mp4: no such file" in reason
    assert f"1 videos are missing: {lost}" in caplog.text
    with pytest.raises(CorpusError, match=rf"1 of 4 media could not be used.*{lost}\.0"):
        write_packed(tmp_path / "strict", VIDEO_STREAMS, hdvila100m(source, SPLIT), ORIGIN)


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        ({"span": ["00:00:01.0", "00:00:02.0"]}, r"part0\.jsonl:2: clip\[0\]\.clip_id: None"),
        ({"clip_id": "a.1.mp4"}, r"part0\.jsonl:2: clip\[0\]\.span: None; \[HH:MM:SS\.mmm, HH:MM:SS\.mmm\]"),
        ({"clip_id": "a.1.mp4", "span": ["00:00:01.0", 2]}, r"clip\[0\]\.span: \['00:00:01\.0', 2\]; \[HH:MM:SS"),
        ({"clip_id": "a.1.mp4", "span": ["00:00:1x", "00:00:02.0"]}, r"clip\[0\]\.span: \['00:00:1x', .*; \[HH:MM:SS"),
        ({"clip_id": "a.1.mp4", "span": ["00:00:03.0", "00:00:02.0"]}, r"span: .*; an end after the start"),
        ("a.1.mp4", r"part0\.jsonl:2: clip\[0\]: 'a\.1\.mp4'; a JSON object"),
        (metadata()["clip"][1], r"part0\.jsonl:2: clip\[0\]\.clip_id: '.*'; a unique value"),
    ],
)
def test_malformed_metadata_names_file_line_and_field(tmp_path: Path, clip: object, message: str) -> None:
    write(tmp_path, [metadata(), {"video_id": VIDEO, "clip": [clip]}], all_texts())
    with pytest.raises(CorpusError, match=message):
        list(hdvila100m(tmp_path, SPLIT))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"clip_id": "a.1.mp4"}', r"text_part0\.jsonl:1: text: None; a string"),
        ('{"text": "words"}', r"text_part0\.jsonl:1: clip_id: None"),
        ("words", r"text_part0\.jsonl:1: not JSON"),
        ('{"clip_id": "a.1.mp4", "text": "\\ud83d"}', r"text_part0\.jsonl:1: text: .* is an unpaired surrogate"),
        (
            '{"clip_id": "a.1.mp4", "text": "a"}\n{"clip_id": "a.1.mp4", "text": "b"}',
            r"text_part0\.jsonl:2: clip_id: 'a\.1\.mp4'; a unique id, or the same text as before,",
        ),
    ],
)
def test_malformed_texts_name_file_line_and_field(tmp_path: Path, line: str, message: str) -> None:
    (write(tmp_path, [metadata()], {}) / "hdvila_text_part0.jsonl").write_text(line + "\n")
    with pytest.raises(CorpusError, match=message):
        list(hdvila100m(tmp_path, SPLIT))


def test_missing_metadata_or_texts_are_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"no \.jsonl of metadata"):
        list(hdvila100m(tmp_path, SPLIT))
    write(tmp_path, [metadata()], {})
    with pytest.raises(CorpusError, match=r"no \.jsonl of texts"):
        list(hdvila100m(tmp_path, SPLIT))
