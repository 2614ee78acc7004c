"""Chapters: clips merged by similarity, and their formats."""

from __future__ import annotations

import json
import os
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.media_files import solid, write_picture, write_video
from tests.small_bundle import COLOURS, make_small_bundle
from vitascope.chapters import (
    FORMATTERS,
    Chapter,
    ChapterOptions,
    format_ffmetadata,
    format_webvtt,
    format_youtube,
    merge_clips,
)
from vitascope.cli.main import main
from vitascope.errors import InvalidInput


def directions(*degrees: float) -> NDArray[np.float64]:
    """Return embeddings of length 1 in a plane; two of them have the cosine of their difference."""
    return np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1)


def starts_of(degrees: list[float], clip_starts: list[float], options: ChapterOptions) -> list[float]:
    """Return the starts of the chapters of clips; the last start is the end of the last clip."""
    clips = list(pairwise(clip_starts))
    chapters = merge_clips(directions(*degrees), clips, options)
    assert [chapter.end for chapter in chapters] == [*(chapter.start for chapter in chapters[1:]), clip_starts[-1]]
    return [chapter.start for chapter in chapters]


@pytest.mark.parametrize(
    ("degrees", "clip_starts", "options", "expected"),
    [
        # Similar neighbours merge: the cosine of 10 degrees is 0.985, that of 80 degrees 0.17.
        ([0, 10, 90, 80], [0, 20, 40, 60, 80], ChapterOptions(similarity=0.9), [0, 40]),
        ([0, 10, 90, 80], [0, 20, 40, 60, 80], ChapterOptions(similarity=0.99), [0, 20, 40, 60]),
        ([0, 10, 90, 80], [0, 20, 40, 60, 80], ChapterOptions(), [0, 40]),
        # One scene remains one chapter, whatever its small differences are.
        ([0, 4, 0, 4], [0, 20, 40, 60, 80], ChapterOptions(), [0]),
        # A short clip joins the neighbour that it resembles.
        ([0, 60, 100], [0, 20, 24, 44], ChapterOptions(similarity=1), [0, 20]),
        # Two speakers in turn are one chapter, as each shot is short.
        ([0, 60, 0, 60, 170], [0, 5, 10, 15, 20, 40], ChapterOptions(similarity=0.95), [0, 20]),
        # While there are too many, the short one merges before long ones of the same distance.
        ([0, 50, 100, 150], [0, 100, 200, 300, 312], ChapterOptions(similarity=1, max_chapters=3), [0, 100, 200]),
        ([0, 50, 100, 150], [0, 100, 200, 300, 312], ChapterOptions(similarity=1, max_chapters=1), [0]),
        # A video that is too short is one chapter.
        ([0, 90], [0, 3, 6], ChapterOptions(), [0]),
        ([0], [0, 3], ChapterOptions(), [0]),
    ],
)
def test_clips_are_merged_by_similarity_length_and_number(
    degrees: list[float], clip_starts: list[float], options: ChapterOptions, expected: list[float]
) -> None:
    assert starts_of(degrees, clip_starts, options) == expected


def test_chapters_of_any_video_cover_it_within_the_limits() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        starts = [0.0, *np.cumsum(random.uniform(0.5, 30, random.integers(1, 60))).tolist()]
        options = ChapterOptions(min_seconds=12, similarity=0.8, max_chapters=int(random.integers(1, 9)))
        chapters = starts_of(random.uniform(0, 180, len(starts) - 1).tolist(), starts, options)
        assert chapters[0] == 0
        assert len(chapters) <= options.max_chapters
        lengths = np.diff([*chapters, starts[-1]])
        assert len(chapters) == 1 or lengths.min() >= 12 - 1e-6


def test_overlapping_clips_give_chapters_without_gaps_and_the_typical_clip_is_captioned() -> None:
    clips = [(0.0, 10.0), (8.0, 18.0), (16.0, 26.0), (24.0, 34.0)]
    first, second = merge_clips(directions(0, 10, 20, 120), clips, ChapterOptions(similarity=0.7, min_seconds=5))
    assert first == (0.0, 24.0, (8.0, 18.0))
    assert second == (24.0, 34.0, (24.0, 34.0))


def test_invalid_options_are_rejected() -> None:
    for options in ({"min_seconds": -1}, {"min_seconds": float("nan")}, {"similarity": 1.1}, {"max_chapters": 0}):
        with pytest.raises(InvalidInput, match=next(iter(options))):
            ChapterOptions(**options)  # type: ignore[arg-type]


ODD = "a = b; #1 \\ 50%\nis <b> & c --> d"
CHAPTERS = [
    Chapter(0.0, 61.5, "a red thing moves", -0.1, ("visual",)),
    Chapter(61.5, 3661.0, ODD, -0.2, ("visual",)),
    Chapter(3661.0, 3700.25, "", -0.3, ("visual",)),
]


def test_webvtt_and_youtube_are_written_by_their_definitions() -> None:
    assert format_webvtt(CHAPTERS) == (
        "WEBVTT\n\n00:00:00.000 --> 00:01:01.500\na red thing moves\n"
        "\n00:01:01.500 --> 01:01:01.000\na = b; #1 \\ 50% is &lt;b&gt; &amp; c -&gt; d\n"
        "\n01:01:01.000 --> 01:01:40.250\nChapter 3\n"
    )
    assert format_youtube(CHAPTERS).splitlines() == [
        "0:00 a red thing moves",
        "1:01 a = b; #1 \\ 50% is <b> & c --> d",
        "1:01:01 Chapter 3",
    ]
    short = Chapter(3700.25, 3709.0, "the end", -0.1, ("visual",))
    for chapters, reason in (
        (CHAPTERS[:2], "2 chapters from 0:00, the shortest of 61.5 s; at least 3 from 0:00"),
        ([*CHAPTERS, short], "the shortest of 8.75 s; .* each of at least 10 s"),
        ([*CHAPTERS[1:], CHAPTERS[0]], "from 1:01"),
    ):
        with pytest.raises(InvalidInput, match=reason):
            format_youtube(chapters)


def test_ffmpeg_reads_the_metadata(tmp_path: Path) -> None:
    file = tmp_path / "chapters.txt"
    file.write_text(format_ffmetadata(CHAPTERS), "utf-8")
    with av.open(str(file), format="ffmetadata") as container:
        chapters = container.chapters()
    assert [chapter["metadata"]["title"] for chapter in chapters] == [
        "a red thing moves",
        ODD.replace("\n", " "),
        "Chapter 3",
    ]
    times = [[float(chapter[key] * chapter["time_base"]) for key in ("start", "end")] for chapter in chapters]
    assert times == [[chapter.start, chapter.end] for chapter in CHAPTERS]


def test_the_command_writes_chapters_in_every_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = ["--bundle", str(make_small_bundle(tmp_path / "bundle", tasks=("retrieval", "captioning")))]
    colors = {name: tuple(255 * np.array(color)) for name, color in COLOURS.items()}
    frames = [solid(colors[name], 64, 48) for name in ("red", "blue", "green") for _ in range(22)]
    video = str(write_video(tmp_path / "film.mp4", frames, rate=2))
    picture = write_picture(tmp_path / "red.png", solid(colors["red"]))
    lines = ["0:00 the red thing moves", "0:11 the blue thing moves", "0:22 the green thing moves"]
    assert main(["chapters", video, *bundle, "--format", "youtube"]) == 0
    assert capsys.readouterr().out.splitlines() == lines
    out = tmp_path / "chapters.json"
    assert main(["chapters", video, *bundle, "--format", "json", "--out", str(out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert json.loads(out.read_text()) == {"chapters": result["chapters"]}
    assert FORMATTERS["text"]([Chapter(**chapter) for chapter in result["chapters"]]).splitlines() == lines
    assert main(["chapters", video, *bundle, "--format", "youtube", "--max-chapters", "2"]) == 2
    assert "youtube: 2 chapters" in capsys.readouterr().err
    assert main(["chapters", video, *bundle, "--format", "youtube", "--max-chapters", "2", "--json"]) == 2
    assert "youtube: 2 chapters" in capsys.readouterr().err
    assert main(["chapters", str(picture), *bundle]) == 2
    assert "a picture has none; a video was expected" in capsys.readouterr().err
    blind = make_small_bundle(tmp_path / "blind", tasks=("captioning",), free_form_answers=True)
    assert main(["chapters", video, "--bundle", str(blind)]) == 2
    assert "no embeddings, so no chapters; its tasks are captioning" in capsys.readouterr().err


def test_invalid_outputs_and_options_are_rejected_before_the_model_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    film, link, hard_link, pipe = (tmp_path / name for name in ("film.mp4", "link", "hard-link", "pipe"))
    film.write_bytes(b"film")
    link.symlink_to(film)
    hard_link.hardlink_to(film)
    os.mkfifo(pipe)
    command = ["chapters", str(film), "--bundle", str(tmp_path / "none")]
    for option, value, message in (
        ("--out", film, "the input file; another file was expected"),
        ("--out", link, "the input file; another file was expected"),
        ("--out", hard_link, "the input file; another file was expected"),
        ("--out", pipe, "not a regular file; a regular file was expected"),
        ("--out", tmp_path, "not a regular file; a regular file was expected"),
        ("--min-seconds", "inf", "a finite number of seconds, 0 or more, was expected"),
    ):
        assert main([*command, option, str(value)]) == 2
        assert message in capsys.readouterr().err
    assert film.read_bytes() == b"film"
