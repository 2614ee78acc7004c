"""Division of recognised segments into sentences and phrases, using the times of words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from vitascope.speech.interface import SpeechSegment, SpokenWord

_PAUSE = 0.5
"""Seconds between words after which a new phrase begins."""
_MAX_SECONDS = 12.0
"""Longest phrase."""
_SENTENCE_ENDS = (".", "?", "!", "\u2026", "\u3002", "\uff1f", "\uff01", "\u061f", "\u0964")
"""Punctuation that ends a sentence, including that of Chinese, Arabic and Hindi."""


def split_phrases(segment: SpeechSegment) -> Iterator[SpeechSegment]:
    """Yield the sentences of a segment; without punctuation, its phrases; without words, the segment itself."""
    phrase: list[SpokenWord] = []
    for word in segment.words:
        if phrase and (
            phrase[-1].text.endswith(_SENTENCE_ENDS)
            or word.start - phrase[-1].end >= _PAUSE
            or word.end - phrase[0].start > _MAX_SECONDS
        ):
            yield _phrase(segment, phrase)
            phrase = []
        phrase.append(word)
    yield _phrase(segment, phrase) if phrase else segment


def join_words(words: Sequence[SpokenWord]) -> str:
    """Return the text of words, without spaces between ideographs."""
    text = ""
    for word in words:
        is_joined = not text or (is_ideograph(text[-1]) and is_ideograph(word.text[:1]))
        text += word.text if is_joined else f" {word.text}"
    return text


def is_ideograph(text: str) -> bool:
    """Return whether a text begins with a character of Chinese or Japanese, or its punctuation."""
    return bool(text) and ("\u2e80" <= text[0] <= "\u9fff" or "\uff00" <= text[0] <= "\uff65")


def _phrase(segment: SpeechSegment, words: Sequence[SpokenWord]) -> SpeechSegment:
    if len(words) == len(segment.words):
        return segment
    return replace(segment, start=words[0].start, end=words[-1].end, text=join_words(words), words=tuple(words))
