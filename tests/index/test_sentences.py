"""Spans between sentences, and the words of a clip."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.clips.segmentation import Segmentation, between, divided, joined
from index.clips.sentence_segmentation import AT_ONCE, inside, sentence_spans, words_in
from index.records import MAX_TEXT_LENGTH, check_text
from vitascope.media.subtitles import Cue

RULE = Segmentation(rule="subtitles", shortest=4.0, longest=16.0, length=8.0)


def test_a_cut_is_between_sentences_and_never_within_one() -> None:
    cues = [Cue(0, 3, "A cat sits"), Cue(3, 5, "on a mat."), Cue(6, 9, "Then it"), Cue(9, 12, "goes away.")]
    assert sentence_spans(cues, 12.0, RULE) == [(0.0, 5.5), (5.5, 12.0)]


def test_short_sentences_are_joined() -> None:
    cues = [Cue(n, n + 1, "No.") for n in range(10)]
    assert sentence_spans(cues, 10.0, RULE) == [(0.0, 4.0), (4.0, 10.0)]


def test_where_nothing_ends_a_sentence_a_cue_is_one() -> None:
    cues = [Cue(5.0 * n, 5.0 * n + 5, "and so on") for n in range(4)]
    assert sentence_spans(cues, 20.0, RULE) == [(0.0, 5.0), (5.0, 10.0), (10.0, 15.0), (15.0, 20.0)]


def test_a_long_pause_is_covered_by_windows() -> None:
    cues = [Cue(0, 6, "At first."), Cue(40, 46, "At last.")]
    spans = sentence_spans(cues, 60.0, RULE)
    assert spans == [(0.0, 6.0), (6.0, 14.0), (14.0, 22.0), (22.0, 30.0), (30.0, 40.0), (40.0, 46.0), *spans[6:]]
    assert spans[6:] == [(46.0, 54.0), (54.0, 60.0)]


def test_what_is_longer_than_the_longest_is_cut_into_equal_parts() -> None:
    spans = sentence_spans([Cue(0, 40, "Oh!")], 40.0, RULE)
    assert [end - start for start, end in spans] == pytest.approx([40 / 3] * 3)


@given(
    st.lists(st.tuples(st.floats(0, 300), st.floats(0, 25), st.sampled_from(["and", "no.", "is it?"])), max_size=40),
    st.floats(0.5, 250),
    st.floats(0, 6),
    st.floats(12, 40),
)
def test_every_moment_is_in_one_clip_of_the_lengths_asked_for(
    said: list[tuple[float, float, str]], duration: float, shortest: float, longest: float
) -> None:
    cues = inside(sorted((Cue(s, s + d, t) for s, d, t in said), key=lambda cue: (cue.start, cue.end)), duration)
    spans = sentence_spans(cues, duration, Segmentation(rule="subtitles", shortest=shortest, longest=longest))
    assert (spans[0][0], spans[-1][1]) == (0, duration)
    assert all(start < end <= start + longest * (1 + 1e-6) for start, end in spans)
    assert all(before[1] == after[0] for before, after in pairwise(spans))
    texts = words_in(cues, spans)
    for cue in cues:
        assert any(cue.text in text for text in texts)


def test_a_clip_has_the_words_that_overlap_it() -> None:
    cues = [Cue(0, 2, "one"), Cue(1.5, 5, "two"), Cue(4.95, 5.0, "three"), Cue(5.0, 5.0, "now"), Cue(7.95, 9, "four")]
    assert words_in(cues, [(0, 2), (2, 5), (5, 8), (8, 10)]) == ["one two", "two three", "now", "four"]


def test_windows_that_overlap_share_words() -> None:
    cues = [Cue(0, 2, "one"), Cue(3, 5, "two"), Cue(6, 8, "three")]
    assert words_in(cues, [(0, 4), (2, 6), (4, 8)]) == ["one two", "two", "two three"]


def test_too_many_words_are_cut_at_a_word_and_can_be_stored() -> None:
    cues = [Cue(n, n + 1, "wörds\x00 \ud800of" if n % 2 else "a clip") for n in range(3000)]
    [text] = words_in(cues, [(0, 3000)])
    assert MAX_TEXT_LENGTH - 10 < len(text) <= MAX_TEXT_LENGTH
    assert text.split()[-1] in ("wörds", "of", "a", "clip")
    assert check_text("text", text) == text
    assert words_in([Cue(0, 1, "x" * 20_000)], [(0, 1)]) == ["x" * MAX_TEXT_LENGTH]


def test_cues_that_never_end_do_not_cost_each_clip_all_of_them() -> None:
    cues = [Cue(0.01 * n, 10_000.0, "on") for n in range(500)]
    counts = [len(text.split()) for text in words_in(cues, [(float(n), n + 1.0) for n in range(10)])]
    assert all(50 < count <= AT_ONCE + 100 for count in counts)
    assert counts[6:] == [AT_ONCE] * 4


def test_starts_become_spans_that_are_long_and_short_enough() -> None:
    spans = between([0.0, 0.4, 3.0, 30.0, 99.0], 32.0)
    assert spans == [(0.0, 0.4), (0.4, 3.0), (3.0, 30.0), (30.0, 32.0)]
    assert joined(spans, 1.0) == [(0.0, 3.0), (3.0, 30.0), (30.0, 32.0)]
    assert joined(spans, 2.5) == [(0.0, 3.0), (3.0, 32.0)]
    assert divided(joined(spans, 1.0), 16.0) == [(0.0, 3.0), (3.0, 16.5), (16.5, 30.0), (30.0, 32.0)]
