"""Words of a query in the speech, the screen text, the captions and the names of results, with their times."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from index.clips.timed_text import belongs_to
from index.records import Hit, WordSignal
from index.storage.fulltext import (
    TOKENIZERS,
    UNSPACED,
    Stemming,
    WordQuery,
    fold,
    normalize_for_index,
    strip_punctuation,
)
from index.storage.video_text import load_screen_text_between, load_speech_between
from vitascope.screen_text.interface import Box
from vitascope.speech.interface import SpeechSegment

MAX_MATCHES = 20
"""Maximum number of matches of a clip by one signal; the first ones are kept."""
_WORD = re.compile(rf"{UNSPACED.pattern[:-1]}|(?:(?!{UNSPACED.pattern[:-1]})\S)+")
"""Pattern of one word with its punctuation, or of one character of a script without spaces."""
_BEGIN, _END = "\x02", "\x03"


@dataclass(frozen=True, slots=True)
class TextMatch:
    """Adjacent words of a query.

    Args:
        text: the words as they are spoken or written.
        start: start in seconds: of the words if their times are known, else of the segment; of the clip for words of a
            caption or a name.
        end: end in seconds.
        box: box of the line on screen: left, top, right, bottom as fractions of width and height; None for others.
    """

    text: str
    start: float
    end: float
    box: Box | None = None


class _Word(NamedTuple):
    """A word at a place in a text, and the seconds in which it is spoken or shown."""

    text: str
    first: int
    last: int
    start: float
    end: float


class TextMatcher:
    """Finds the words of a query in texts like the full-text indexes: by stem, ignoring case and diacritics."""

    def __init__(self, query: WordQuery, stemming: Stemming) -> None:
        """Prepare to find words with the stemming of a collection. Use as a context manager."""
        terms = [f'"{term}"' for term in query.terms if not term.endswith("*")]
        self._expression = " OR ".join([*terms, *(f'"{literal}"' for literal in query.literals)])
        self._prefixes = [f" {fold(term[:-1])}" for term in query.terms if term.endswith("*")]
        self._connection = sqlite3.connect(":memory:", isolation_level=None)
        self._connection.execute(f"CREATE VIRTUAL TABLE texts USING fts5(text, tokenize = {TOKENIZERS[stemming]})")

    def __enter__(self) -> TextMatcher:
        return self

    def __exit__(self, *error: object) -> None:
        self._connection.close()

    def matches(self, connection: sqlite3.Connection, hit: Hit, signal: WordSignal) -> tuple[TextMatch, ...]:
        """Return the query's words in a clip, or in the name of its video. ``connection``: of the catalogue."""
        span = hit.start, hit.end
        texts: list[tuple[list[_Word], str, Box | None]] = []
        if signal in ("caption", "name"):
            text = hit.caption if signal == "caption" else hit.video.title
            texts.append((list(_words(text, *span)), text, None))
        elif signal == "speech":
            for segment in load_speech_between(connection, hit.video_id, *span):
                if belongs_to(segment, span):
                    text = " ".join(word.text for word in segment.words) or segment.text
                    texts.append((list(_spoken_words(segment)), text, None))
        else:
            for line in load_screen_text_between(connection, hit.video_id, *span):
                if belongs_to(line, span):
                    texts.append((list(_words(line.text, line.start, line.end)), line.text, line.box))
        all_matches = (match for words, text, box in texts for match in self._in_text(words, text, box))
        return tuple(match for match, _ in zip(all_matches, range(MAX_MATCHES), strict=False))

    def _in_text(self, words: Sequence[_Word], text: str, box: Box | None) -> Iterator[TextMatch]:
        run: list[_Word] = []
        for word, is_matching in zip(words, self._flags(words), strict=True):
            if is_matching:
                run.append(word)
            elif run:
                yield _match(run, text, box)
                run = []
        if run:
            yield _match(run, text, box)

    def _flags(self, words: Sequence[_Word]) -> list[bool]:
        """Return for each word whether it matches."""
        indexed = [normalize_for_index(word.text) for word in words]
        flags = self._begin_with_prefix(indexed)
        if not self._expression:
            return flags
        self._connection.execute("DELETE FROM texts")
        self._connection.execute("INSERT INTO texts VALUES (?)", (" ".join(filter(None, indexed)),))
        marked = self._connection.execute(
            "SELECT highlight(texts, 0, ?, ?) FROM texts WHERE texts MATCH ?", (_BEGIN, _END, self._expression)
        ).fetchone()
        if marked is None:
            return flags
        tokens = iter(str(marked[0]).split())
        is_inside = False
        for index, own in enumerate(indexed):
            for _ in own.split():
                token = next(tokens)
                is_inside = is_inside or token.startswith(_BEGIN)
                flags[index] = flags[index] or is_inside
                is_inside = is_inside and not token.endswith(_END)
        return flags

    def _begin_with_prefix(self, indexed: Sequence[str]) -> list[bool]:
        """Return for each word whether a prefix begins or continues in it: characters of some scripts are words."""
        flags = [False] * len(indexed)
        if not self._prefixes:
            return flags
        folded = [f" {fold(text)}" if text else "" for text in indexed]
        word_at = [index for index, text in enumerate(folded) for _ in text]
        for prefix in self._prefixes:
            for match in re.finditer(re.escape(prefix), "".join(folded)):
                for index in word_at[match.start() + 1 : match.end()]:
                    flags[index] = True
        return flags


def _words(text: str, start: float, end: float) -> Iterator[_Word]:
    for match in _WORD.finditer(text):
        yield _Word(match.group(), match.start(), match.end(), start, end)


def _spoken_words(segment: SpeechSegment) -> Iterator[_Word]:
    """Yield the words of a segment with their times; words without times get the times of the segment."""
    if not segment.words:
        yield from _words(segment.text, segment.start, segment.end)
        return
    offset = 0
    for word in segment.words:
        for part in _words(word.text, word.start, word.end):
            yield part._replace(first=part.first + offset, last=part.last + offset)
        offset += len(word.text) + 1


def _match(run: Sequence[_Word], text: str, box: Box | None) -> TextMatch:
    words = strip_punctuation(text[run[0].first : run[-1].last])
    return TextMatch(words, run[0].start, run[-1].end, box)
