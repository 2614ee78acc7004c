"""Spans of clips by every rule, and the words spoken in each."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from index.clips.segmentation import (
    MAX_CLIPS,
    MAX_OVERLAPPING_CUES,
    Segmentation,
    merge_short,
    sentence_spans,
    spans_between,
    split_long,
    text_per_span,
    window_spans,
)
from index.clips.subtitles import clip_cues
from index.records import MAX_TEXT_LENGTH, check_text
from vitascope.errors import InvalidInput
from vitascope.media.subtitles import Cue

RULE = Segmentation(rule="subtitles", shortest=4.0, longest=16.0, length=8.0)


def test_a_picture_is_one_clip() -> None:
    assert window_spans(0.0) == [(0.0, 0.0)]


def test_a_short_video_is_one_clip_to_its_end() -> None:
    assert window_spans(2.5, length=8.0) == [(0.0, 2.5)]


def test_windows_follow_each_other_and_end_with_the_video() -> None:
    assert window_spans(24.0, length=8.0) == [(0.0, 8.0), (8.0, 16.0), (16.0, 24.0)]


def test_a_short_remainder_is_merged_into_the_last_window() -> None:
    assert window_spans(18.0, length=8.0) == [(0.0, 8.0), (8.0, 18.0)]


def test_a_long_remainder_is_a_clip_of_its_own() -> None:
    assert window_spans(21.0, length=8.0) == [(0.0, 8.0), (8.0, 16.0), (16.0, 21.0)]


def test_the_shortest_last_window_is_an_option() -> None:
    assert window_spans(17.0, length=8.0, shortest=1.0) == [(0.0, 8.0), (8.0, 16.0), (16.0, 17.0)]


def test_windows_overlap() -> None:
    assert window_spans(20.0, length=8.0, overlap=2.0) == [(0.0, 8.0), (6.0, 14.0), (12.0, 20.0)]


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
    ("options", "named"),
    [
        ({"length": 0.0}, "length: 0.0"),
        ({"length": math.nan}, "length: nan"),
        ({"overlap": 8.0}, "overlap: 8.0"),
        ({"overlap": -1.0}, "overlap: -1.0"),
        ({"shortest": 9.0}, "shortest: 9.0"),
    ],
)
def test_an_option_out_of_range_is_rejected_by_name(options: dict[str, float], named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        Segmentation(**options)


@pytest.mark.parametrize("duration", [-1.0, math.inf, math.nan])
def test_a_duration_must_be_finite(duration: float) -> None:
    with pytest.raises(InvalidInput, match="duration"):
        window_spans(duration)


def test_too_many_windows_are_rejected() -> None:
    with pytest.raises(InvalidInput, match=str(MAX_CLIPS)):
        window_spans(7200.0, length=0.01)


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
    said: list[tuple[float, float, str]], duration: float, shortest: float, longest: float
) -> None:
    cues = clip_cues(sorted((Cue(s, s + d, t) for s, d, t in said), key=lambda cue: (cue.start, cue.end)), duration)
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


def test_shot_starts_become_spans_that_are_merged_and_split() -> None:
    spans = spans_between([0.0, 0.4, 3.0, 30.0, 99.0], 32.0)
    assert spans == [(0.0, 0.4), (0.4, 3.0), (3.0, 30.0), (30.0, 32.0)]
    assert merge_short(spans, 1.0) == [(0.0, 3.0), (3.0, 30.0), (30.0, 32.0)]
    assert merge_short(spans, 2.5) == [(0.0, 3.0), (3.0, 32.0)]
    assert split_long(merge_short(spans, 1.0), 16.0) == [(0.0, 3.0), (3.0, 16.5), (16.5, 30.0), (30.0, 32.0)]
