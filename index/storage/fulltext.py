"""Full-text indexes of speech, screen text, titles and paths, by SQLite's FTS5, and word scores of a query.

FTS5 splits words at spaces. Chinese, Japanese and Korean are written without spaces, or with endings on every word:
their characters are indexed one by one and searched in pairs, so that any two adjacent characters match. (FTS5's
trigrams match nothing shorter than three characters, as most Chinese words are.) English words are stemmed (Porter);
case and diacritics are ignored. Titles and paths are also split at changes of case and between letters and digits.
"""

from __future__ import annotations

import json
import re
import sqlite3
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from index.storage.removals import is_owned

MAX_TERMS = 62
"""Terms of one query that are searched for, the first ones; each is a bit of an SQLite integer."""
RARE = 5
"""A word is rare if at most so many clips contain it, or the names of so many videos; in small collections, if at most
a fifth do."""
MAX_ORDERED = 100
"""Best clips with some words of a query in which the order of these words is compared."""
MIN_RARITY = 0.2
"""Words below this rarity are ignored: they say little and are in many clips."""

ClipTable = Literal["words", "screen_words"]
"""Full-text indexes of clips: of speech, and of text on screen."""
CLIP_TABLES: tuple[ClipTable, ...] = ("words", "screen_words")

_UNSPACED = re.compile(
    r"[\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff]+"
)
_APOSTROPHE = re.compile(r"(?<=\w)['\u2019](?=\w)")
_WORD_BOUNDARY = re.compile(
    "(?<=[a-z\u00df-\u00ff])(?=[A-Z\u00c0-\u00de])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[^\\W\\d_])(?=\\d)|(?<=\\d)(?=[^\\W\\d_])"
)
_STOP_WORDS_TEXT = (
    "a about an and are as at be been but by do does for from had has have he her him his i in into is it its me my no "
    "not of on or our she so that the their them there these they this those to was we were what when where which "
    "while who will with you your"
)
_STOP_WORDS = frozenset(_STOP_WORDS_TEXT.split())


class _Letters(dict[int, str]):
    """Table for ``str.translate``: letters, marks and digits stay, anything else becomes a space."""

    def __missing__(self, code: int) -> str:
        self[code] = chr(code) if unicodedata.category(chr(code))[0] in "LMN" else " "
        return self[code]


_letters = _Letters()


@dataclass(frozen=True, slots=True)
class WordQuery:
    """Distinct terms of a query, without stop words unless there is nothing else.

    ``phrase``: all its words in order, in their indexed form; empty for a single word and for several texts.
    ``pairs``: neighbouring words in lower case, without those of two stop words.
    """

    terms: Sequence[str]
    phrase: str
    pairs: frozenset[tuple[str, str]]


class WordScore(NamedTuple):
    """Word score of a clip or of the name of a video, 0 to 1.

    ``has_phrase``: whether the phrase of the query is in it. ``is_partial``: whether words are missing, of more than
    two, so that their order counts, see ``weigh_order``.
    """

    score: float
    has_phrase: bool
    is_partial: bool


@dataclass(frozen=True, slots=True)
class WordMatches:
    """Word scores by clip id, of a clip's speech together with its video's name, and by video id, of names alone."""

    clips: dict[int, WordScore]
    names: dict[int, WordScore]


def normalize_for_index(text: str) -> str:
    """Return the indexed form of a text: words, and characters of scripts without spaces, separated by spaces."""
    return " ".join(_UNSPACED.sub(lambda run: f" {' '.join(run.group())} ", _normalize(text)).split())


def parse_words(texts: Sequence[str]) -> WordQuery:
    """Return the words of the texts of a query."""
    terms = [term.lower() for text in texts for term in _split_terms(text)]
    significant = [term for term in terms if term not in _STOP_WORDS] or terms
    phrase = normalize_for_index(texts[0]) if len(texts) == 1 else ""
    pairs = {pair for text in texts for pair in _pairs(normalize_for_index(text)) if not _STOP_WORDS.issuperset(pair)}
    return WordQuery(list(dict.fromkeys(significant))[:MAX_TERMS], phrase if " " in phrase else "", frozenset(pairs))


# Indexing


def index_clip_text(connection: sqlite3.Connection, table: ClipTable, clips: Sequence[tuple[int, str]]) -> None:
    """Index the text of clips (id, text), in place of earlier text; ``table``: ``words`` is of speech."""
    connection.executemany(f"DELETE FROM {table} WHERE rowid = ?", [(clip_id,) for clip_id, _ in clips])
    rows = [(clip_id, normalize_for_index(text)) for clip_id, text in clips if text]
    connection.executemany(f"INSERT INTO {table} (rowid, text) VALUES (?, ?)", rows)


def delete_clip_text(connection: sqlite3.Connection, first_clip: int, clip_count: int) -> None:
    """Remove the text of ``clip_count`` clips from ``first_clip`` on from the indexes."""
    for table in CLIP_TABLES:
        connection.execute(f"DELETE FROM {table} WHERE rowid >= ? AND rowid < ?", (first_clip, first_clip + clip_count))


def index_names(connection: sqlite3.Connection, videos: Iterable[tuple[int, str, str]]) -> None:
    """Index the names of videos, in place of earlier ones.

    Args:
        connection: in a write transaction.
        videos: id, title, and path or URL; the path of an owned file is left out.
    """
    rows = [
        (video_id, _index_name(title), "" if is_owned(path) else _index_name(path)) for video_id, title, path in videos
    ]
    connection.executemany("INSERT OR REPLACE INTO names (rowid, title, path) VALUES (?, ?, ?)", rows)


def delete_name(connection: sqlite3.Connection, video_id: int) -> None:
    """Remove the name of a video."""
    connection.execute("DELETE FROM names WHERE rowid = ?", (video_id,))


# Search


def match_words(connection: sqlite3.Connection, query: WordQuery) -> WordMatches:
    """Return the word scores of all clips and videos that contain words of a query.

    A score is the rarity of the rarest word that matches times m / (m + x^2), where m is the sum of the rarities of
    the words that match and x that of the others; at least the rarity of the phrase where that matches. Some words of
    a long description are in many clips by chance, and the absence of the others outweighs them.
    """
    expressions = [f'"{words}"' for words in [*query.terms, query.phrase] if words]  # FTS5 parses no syntax in quotes
    videos, clips = connection.execute("SELECT count(*), coalesce(sum(clip_count), 0) FROM videos").fetchone()
    speech_counts, name_counts = (_count(connection, table, expressions) for table in ("words", "names"))
    speech, names = _rarities(speech_counts, clips), _rarities(name_counts, videos)
    spoken = _select(connection, "words", expressions, speech, "JOIN clips USING (id) GROUP BY id", "id, video_id")
    named = {row[0]: row[1] for row in _select(connection, "names", expressions, names, "GROUP BY id", "id")}
    weights = np.where(speech_counts + name_counts == 0, 1.0, np.maximum(speech, names))[: len(query.terms)]
    has_order, bits = int(np.count_nonzero(weights)) > 2, np.arange(len(expressions))

    @cache
    def score(speech_bits: int, name_bits: int) -> WordScore:
        rarity = np.maximum(speech * (speech_bits >> bits & 1), names * (name_bits >> bits & 1))
        terms, phrase = rarity[: len(weights)], float(rarity[len(weights) :].sum())
        matched, missing = weights[terms > 0].sum(), weights[terms == 0].sum()
        share = matched / (matched + missing**2 or 1.0)
        return WordScore(max(float(terms.max() * share), phrase), phrase > 0, has_order and bool(missing > 0))

    return WordMatches(
        {clip_id: score(term_bits, named.get(video_id, 0)) for clip_id, video_id, term_bits in spoken},
        {video_id: score(0, term_bits) for video_id, term_bits in named.items()},
    )


def weigh_order(
    connection: sqlite3.Connection, query: WordQuery, scores: Mapping[int, WordScore]
) -> dict[int, WordScore]:
    """Return word scores by clip id, the partial ones multiplied by how many words are neighbours as in the query.

    The factor is (1 + n) / (1 + N), where n of the N pairs of the query are in the speech of the clip or the name of
    its video. It tells a sentence that is remembered in part from a description that has words in common. Beyond the
    ``MAX_ORDERED`` best clips, n is 0.
    """
    partial = {clip_id: score for clip_id, score in scores.items() if score.is_partial}
    select = (
        "SELECT id, coalesce(words.text, '') || ' / ' || coalesce(title, '') || ' / ' || coalesce(path, '') FROM clips "
        "LEFT JOIN words ON words.rowid = id LEFT JOIN names ON names.rowid = video_id "
        "WHERE id IN (SELECT value FROM json_each(?))"
    )
    texts = connection.execute(select, (json.dumps([clip_id for clip_id, _ in best_scores(partial, MAX_ORDERED)]),))
    counts = {clip_id: len(query.pairs.intersection(_pairs(text))) for clip_id, text in texts}
    weighed = {
        clip_id: WordScore(score * (1 + counts.get(clip_id, 0)) / (1 + len(query.pairs)), has_phrase, True)
        for clip_id, (score, has_phrase, _) in partial.items()
    }
    return {**scores, **weighed}


def best_scores(scores: Mapping[int, WordScore], count: int) -> list[tuple[int, WordScore]]:
    """Return the at most ``count`` best, ties by phrase and id."""
    return sorted(scores.items(), key=lambda pair: (-pair[1].score, not pair[1].has_phrase, pair[0]))[:count]


def _pairs(indexed: str) -> Iterator[tuple[str, str]]:
    """Return the neighbouring words of a text in its indexed form."""
    return pairwise(indexed.lower().split())


def _count(connection: sqlite3.Connection, table: str, expressions: Sequence[str]) -> npt.NDArray[np.int64]:
    query = f"SELECT count(*) FROM {table} WHERE {table} MATCH ?"
    return np.array([connection.execute(query, (expression,)).fetchone()[0] for expression in expressions], np.int64)


def _rarities(counts: npt.NDArray[np.int64], total: int) -> npt.NDArray[np.float64]:
    """Return rarities, 1 up to ``RARE`` of ``total`` rows and then falling like BM25's inverse document frequency."""

    def idf(count: npt.NDArray[np.int64] | int) -> npt.NDArray[np.float64]:
        return np.log1p((np.maximum(total - count, 0) + 0.5) / (np.asarray(count) + 0.5))

    rarities = np.minimum(1.0, idf(counts) / idf(max(1, min(RARE, total // 5))))
    return np.where((counts > 0) & (rarities >= MIN_RARITY), rarities, 0.0)


def _select(
    connection: sqlite3.Connection,
    table: str,
    expressions: Sequence[str],
    rarities: npt.NDArray[np.float64],
    suffix: str,
    columns: str,
) -> list[tuple[int, ...]]:
    """Return columns of the rows that match, and the sum of the bits of the expressions that do and are not ignored."""
    used = [(1 << index, expressions[index]) for index in np.flatnonzero(rarities).tolist()]
    if not used:
        return []
    parts = " UNION ALL ".join([f"SELECT rowid, ? FROM {table} WHERE {table} MATCH ?"] * len(used))
    query = f"WITH matches (id, bit) AS ({parts}) SELECT {columns}, sum(bit) FROM matches {suffix}"
    return connection.execute(query, [value for pair in used for value in pair]).fetchall()


def _normalize(text: str) -> str:
    """Return composed characters in their usual width, with a space for anything but letters, marks and digits."""
    return _APOSTROPHE.sub("", unicodedata.normalize("NFKC", text)).translate(_letters)


def _index_name(name: str) -> str:
    """Return the indexed form of a name, and then of the name split where case changes and at digits, if it can be."""
    parts = _WORD_BOUNDARY.sub(" ", name)
    return normalize_for_index(name if parts == name else f"{name} {parts}")


def _split_terms(text: str) -> list[str]:
    """Return words, and pairs of adjacent characters in runs without spaces."""
    terms: list[str] = []
    for word in _normalize(text).split():
        position = 0
        for match in _UNSPACED.finditer(word):
            run = match.group()
            terms.append(word[position : match.start()])
            terms += [f"{first} {second}" for first, second in pairwise(run)] if len(run) > 1 else [run]
            position = match.end()
        terms.append(word[position:])
    return [term for term in terms if term]
