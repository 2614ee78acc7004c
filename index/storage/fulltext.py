"""Full-text indexes of speech, screen text, captions, titles and paths, by SQLite's FTS5, and word scores of a query.

FTS5 splits text into words at spaces. Chinese and Japanese have no spaces between words, and Korean words have endings:
their characters are indexed one by one and searched in pairs of adjacent characters. (FTS5's trigram tokenizer matches
nothing shorter than three characters, but most Chinese words are shorter.) English words are stemmed (Porter), unless
the stemming of the collection is none; case and diacritics are ignored. Titles and paths are also split at changes of
case and between letters and digits.

A word that ends in an asterisk matches every word that begins with it, and a part of a query in double quotes must be
matched literally. Both are compared with the indexed text itself, as the index may have stems only.
"""

from __future__ import annotations

import json
import re
import sqlite3
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from index.records import WORD_SIGNALS, WordSignal
from index.storage.removals import is_owned
from vitascope.errors import InvalidInput, StorageError

Stemming = Literal["english", "none"]
"""Whether a word also matches words with the same stem; FTS5 has a stemmer of English only."""
STEMMING_KEY = "stemming"
"""Key of the table meta; missing: ``english``."""
TOKENIZERS: Mapping[Stemming, str] = {
    "english": "\"porter unicode61 remove_diacritics 2 categories 'L* M* N* Co'\"",
    "none": "\"unicode61 remove_diacritics 2 categories 'L* M* N* Co'\"",
}
"""FTS5 tokenizers by stemming, as in the definitions of the full-text tables."""
MAX_TERMS = 62
"""Maximum terms of a query; further ones are ignored, as each term is a bit of an SQLite integer."""
RARE = 5
"""A word is rare if at most this number of clips (or video names) contain it; in small collections, at most a fifth."""
MAX_ORDERED = 100
"""Number of best partially matching clips in which the order of words is compared with the query."""
MIN_RARITY = 0.2
"""Words of lower rarity are ignored: they occur in many clips and say little."""

ClipTable = Literal["words", "screen_words", "caption_words"]
"""Full-text tables of clips: speech, text on screen, captions."""
CLIP_TABLES: tuple[ClipTable, ...] = ("words", "screen_words", "caption_words")

_TABLES: Mapping[WordSignal, str] = {**dict(zip(WORD_SIGNALS, CLIP_TABLES, strict=False)), "name": "names"}
_INDEXED: Mapping[WordSignal, str] = {**dict.fromkeys(WORD_SIGNALS, "text"), "name": "title || ' / ' || path"}
"""Indexed text by signal: that of a clip, or the name of a video."""
_LITERAL = re.compile('(?<!\\w)["\u201c\u201d\u201e]([^"\u201c\u201d\u201e]+)["\u201c\u201d](?!\\w)')
STEM_PREFIX = 3
"""Number of letters of a prefix that are looked up in the index; later letters may differ in the stem of a word."""
EQUAL_WEIGHTS: Mapping[WordSignal, float] = dict.fromkeys(WORD_SIGNALS, 1.0)
_Expression = tuple[str, str]
"""An FTS5 expression, and a prefix that the indexed text must also contain (empty: none)."""
UNSPACED = re.compile(
    r"[\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff]+"
)
_APOSTROPHE = re.compile(r"(?<=\w)['\u2019](?=\w)")
_WORD_BOUNDARY = re.compile(
    "(?<=[a-z\u00df-\u00ff])(?=[A-Z\u00c0-\u00de])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[^\\W\\d_])(?=\\d)|(?<=\\d)(?=[^\\W\\d_])"
)
_STOP_WORDS_TEXT = (
    "a about an and anybody anyone anything are as at be been but by do does for from had has have he her him his i in "
    "into is it its me my no not of on or our she so somebody someone something that the their them there these they "
    "this those to was we were what when where which while who will with you your"
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
    """Distinct terms of a query, without stop words unless all are stop words; a prefix ends with an asterisk.

    ``phrase``: all words in order, in their indexed form; empty for a single word and for several texts. ``pairs``:
    pairs of adjacent words in lower case, except pairs of stop words. ``literals``: the parts in double quotes, in
    their indexed form.
    """

    terms: Sequence[str]
    phrase: str
    pairs: frozenset[tuple[str, str]]
    literals: tuple[str, ...] = ()


class WordScore(NamedTuple):
    """Word score of a clip or of the name of a video, 0 to 1.

    ``has_phrase``: whether the text contains the phrase of the query. ``is_partial``: whether the query has more than
    two words and some are missing; then ``weigh_order`` considers the order of words.
    """

    score: float
    has_phrase: bool
    is_partial: bool


@dataclass(frozen=True, slots=True)
class WordMatches:
    """Word scores: ``clips`` by clip id, from the text of a clip and its video's name; ``names`` by video id.

    ``by_signal``: scores of each signal alone, by clip id (``name``: by video id), for keys of ``clips`` or ``names``.
    """

    clips: dict[int, WordScore]
    names: dict[int, WordScore]
    by_signal: Mapping[WordSignal, Mapping[int, float]] = field(default_factory=dict)


def normalize_for_index(text: str) -> str:
    """Return the indexed form of a text: words, and characters of scripts without spaces, separated by spaces."""
    return " ".join(UNSPACED.sub(lambda run: f" {' '.join(run.group())} ", _normalize(text)).split())


def fold(indexed: str) -> str:
    """Remove case and diacritics from a text in its indexed form."""
    decomposed = unicodedata.normalize("NFD", indexed.lower())
    return "".join(character for character in decomposed if unicodedata.category(character) != "Mn")


def strip_punctuation(text: str) -> str:
    """Return a text without what is not a letter, mark or digit at its beginning and end."""
    letters = text.translate(_letters)
    return text[len(letters) - len(letters.lstrip()) : len(letters.rstrip())]


def parse_words(texts: Sequence[str]) -> WordQuery:
    """Parse the words of all texts of a query."""
    # FTS5 ignores case by itself, but not in newer scripts such as Cherokee, whose capitals are indexed as they are.
    split = [text.split() for text in texts]
    starts = (normalize_for_index(word[:-1]) for words in split for word in words if _is_prefix(word))
    prefixes = {start.lower(): start for start in starts if len(start) > 1}
    rests = (" ".join(word for word in words if not _is_prefix(word)) for words in split)
    terms = {term.lower(): term for rest in rests for term in _split_terms(rest)}
    significant = [term for key, term in terms.items() if key not in _STOP_WORDS]
    significant = significant or ([] if prefixes else list(terms.values()))
    phrase = normalize_for_index(texts[0]) if len(texts) == 1 and not prefixes else ""
    pairs = {pair for text in texts for pair in _pairs(normalize_for_index(text)) if not _STOP_WORDS.issuperset(pair)}
    quoted = [normalize_for_index(part) for text in texts for part in _LITERAL.findall(text)]
    return WordQuery(
        [*(f"{prefix}*" for prefix in prefixes.values()), *significant][:MAX_TERMS],
        phrase if " " in phrase else "",
        frozenset(pairs),
        tuple(dict.fromkeys(part for part in quoted if part)),
    )


def _is_prefix(word: str) -> bool:
    """Return whether a word of a query is at least two letters and an asterisk."""
    return len(word) > 2 and word.endswith("*") and " " not in word[:-1].replace("_", "").translate(_letters)


# Indexing


def index_clip_text(connection: sqlite3.Connection, table: ClipTable, clips: Sequence[tuple[int, str]]) -> None:
    """Replace the indexed text of clips, given as (id, text). ``table``: see ``CLIP_TABLES``; ``words`` has speech."""
    connection.executemany(f"DELETE FROM {table} WHERE rowid = ?", [(clip_id,) for clip_id, _ in clips])
    rows = [(clip_id, normalize_for_index(text)) for clip_id, text in clips if text]
    connection.executemany(f"INSERT INTO {table} (rowid, text) VALUES (?, ?)", rows)


def delete_clip_text(connection: sqlite3.Connection, first_clip: int, clip_count: int) -> None:
    """Remove ``clip_count`` consecutive clips, starting with ``first_clip``, from the indexes."""
    for table in CLIP_TABLES:
        connection.execute(f"DELETE FROM {table} WHERE rowid >= ? AND rowid < ?", (first_clip, first_clip + clip_count))


def index_names(connection: sqlite3.Connection, videos: Iterable[tuple[int, str, str]]) -> None:
    """Replace the indexed names of videos.

    Args:
        connection: a connection with an open write transaction.
        videos: id, title, and path or URL of each video; the path of an owned file is not indexed.
    """
    rows = [
        (video_id, _index_name(title), "" if is_owned(path) else _index_name(path)) for video_id, title, path in videos
    ]
    connection.executemany("INSERT OR REPLACE INTO names (rowid, title, path) VALUES (?, ?, ?)", rows)


def delete_name(connection: sqlite3.Connection, video_id: int) -> None:
    """Remove the name of a video."""
    connection.execute("DELETE FROM names WHERE rowid = ?", (video_id,))


def check_stemming(value: object) -> Stemming:
    """Return ``value`` if it is a stemming. Raises InvalidInput."""
    for stemming in TOKENIZERS:
        if value == stemming:
            return stemming
    raise InvalidInput(f"stemming: {value!r}; one of {', '.join(TOKENIZERS)} was expected")


def read_stemming(connection: sqlite3.Connection) -> Stemming:
    """Return the stemming of the full-text indexes of a catalogue. Raises StorageError for an unknown one."""
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (STEMMING_KEY,)).fetchone()
    try:
        return check_stemming("english" if row is None else row[0])
    except InvalidInput as error:
        raise StorageError(f"table meta: {error}") from error


def set_stemming(connection: sqlite3.Connection, stemming: str) -> None:
    """Rebuild the full-text indexes with a stemming in the open write transaction. Raises InvalidInput."""
    checked = check_stemming(stemming)
    if checked == read_stemming(connection):
        return
    for table in CLIP_TABLES:
        rebuild_index(connection, table, "text", checked)
    rebuild_index(connection, "names", "title, path", checked)
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (STEMMING_KEY, checked))


def rebuild_index(connection: sqlite3.Connection, table: str, columns: str, stemming: Stemming) -> None:
    """Rebuild a full-text index with a stemming in the open write transaction."""
    connection.execute(f"ALTER TABLE {table} RENAME TO former_{table}")
    connection.execute(f"CREATE VIRTUAL TABLE {table} USING fts5({columns}, tokenize = {TOKENIZERS[stemming]})")
    connection.execute(f"INSERT INTO {table} (rowid, {columns}) SELECT rowid, {columns} FROM former_{table}")
    connection.execute(f"DROP TABLE former_{table}")


# Search


def match_words(
    connection: sqlite3.Connection, query: WordQuery, weights: Mapping[WordSignal, float] = EQUAL_WEIGHTS
) -> WordMatches:
    """Return the word scores of all clips and videos that contain words of a query.

    A score is r * m / (m + x^2), where r is the rarity of the rarest matching word, m the sum of the rarities of the
    matching words, and x the sum of the rarities of the missing words: some words of a long description occur in many
    clips by chance, and the missing words outweigh them. If the phrase matches, the score is at least its rarity. A
    clip gets the best score of its speech, its screen text and its caption, each combined with the name of its video.
    These texts are not combined with each other: words that are partly spoken and partly shown seldom match the meaning
    of a query. The rarities of the rarest word and of the phrase are multiplied by the weight of their signal.

    Args:
        connection: a connection with an open transaction.
        query: the words of the query.
        weights: weights by signal, 0 to 1; signals without a weight are not searched.
    """
    _define_functions(connection)
    expressions = [_expression(words) for words in [*query.terms, query.phrase] if words]
    videos, clips = connection.execute("SELECT count(*), coalesce(sum(clip_count), 0) FROM videos").fetchone()
    totals = {**dict.fromkeys(WORD_SIGNALS, clips), "name": videos}
    counts = {signal: _count(connection, signal, expressions) for signal in weights}
    rarities = {signal: _rarities(counts[signal], totals[signal]) for signal in weights}
    rows_of = {signal: _select(connection, signal, expressions, rarities[signal]) for signal in weights}
    is_absent = sum(counts.values()) == 0
    terms = np.where(is_absent, 1.0, np.max(list(rarities.values()), axis=0))[: len(query.terms)]
    has_order, bits = int(np.count_nonzero(terms)) > 2, np.arange(len(expressions))

    @cache
    def score(*term_bits: int) -> WordScore:
        each = zip(weights.items(), term_bits, strict=True)
        by_signal = [w * rarities[signal] * (has_bits >> bits & 1) for (signal, w), has_bits in each]
        rarity = np.max(by_signal, axis=0)
        matching, phrase = rarity[: len(terms)], float(rarity[len(terms) :].sum())
        matched, missing = terms[matching > 0].sum(), terms[matching == 0].sum()
        share = matched / (matched + missing**2 or 1.0)
        value = max(float(matching.max(initial=0.0) * share), phrase)
        return WordScore(value, phrase > 0, has_order and bool(missing > 0))

    named = rows_of.get("name", {})
    of_clips = [signal for signal in weights if signal != "name"]
    ids = set().union(*(rows_of[signal] for signal in of_clips))
    video_of = _videos_of(connection, ids) if named else {}

    def best_of(clip_id: int) -> WordScore:
        name = named.get(video_of.get(clip_id, 0), 0)
        bits_of = [{s: rows_of[s].get(clip_id, 0), "name": name} for s in of_clips]
        return max((score(*(own.get(s, 0) for s in weights)) for own in bits_of), key=lambda value: value.score)

    def alone(signal: WordSignal, term_bits: int) -> float:
        return score(*(term_bits if other == signal else 0 for other in weights)).score / weights[signal]

    return WordMatches(
        {clip_id: best_of(clip_id) for clip_id in ids},
        {video_id: score(*(b if s == "name" else 0 for s in weights)) for video_id, b in named.items()},
        {signal: {key: alone(signal, b) for key, b in rows.items()} for signal, rows in rows_of.items()},
    )


def literal_clips(connection: sqlite3.Connection, literal: str, signals: Iterable[WordSignal]) -> npt.NDArray[np.bool_]:
    """Return an array that is True at the id of every clip that contains a literal in one of these signals.

    ``literal``: an element of ``WordQuery.literals``; case and diacritics are ignored.
    """
    _define_functions(connection)
    ids: list[int] = []
    for signal in signals:
        table, text = _TABLES[signal], _INDEXED[signal]
        matching = f"SELECT rowid FROM {table} WHERE {table} MATCH ? AND has_words({text}, ?)"
        if signal == "name":
            matching = f"SELECT id FROM clips WHERE video_id IN ({matching})"
        ids += [row[0] for row in connection.execute(matching, (f'"{literal}"', fold(literal)))]
    allowed = np.zeros(max(ids, default=-1) + 1, dtype=bool)
    allowed[ids] = True
    return allowed


def weigh_order(
    connection: sqlite3.Connection, query: WordQuery, scores: Mapping[int, WordScore]
) -> dict[int, WordScore]:
    """Return word scores by clip id; multiply partial scores by a factor for words that are adjacent as in the query.

    The factor is (1 + n) / (1 + N): n of the N adjacent pairs of the query occur in the speech, the screen text or the
    caption of the clip, or in the name of its video. It distinguishes a partly remembered sentence from a description
    that happens to share words. After the ``MAX_ORDERED`` best clips, n is 0.
    """
    partial = {clip_id: score for clip_id, score in scores.items() if score.is_partial}
    columns = (*(f"{table}.text" for table in CLIP_TABLES), "title", "path")
    joined = " || ' / ' || ".join(f"coalesce({column}, '')" for column in columns)
    joins = " ".join(f"LEFT JOIN {table} ON {table}.rowid = id" for table in CLIP_TABLES)
    select = (
        f"SELECT id, {joined} FROM clips {joins} LEFT JOIN names ON names.rowid = video_id "
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
    """Return the ``count`` best scores, best first; ties are ordered by phrase, then id."""
    return sorted(scores.items(), key=lambda pair: (-pair[1].score, not pair[1].has_phrase, pair[0]))[:count]


def _pairs(indexed: str) -> Iterator[tuple[str, str]]:
    """Yield the pairs of adjacent words of a text in its indexed form."""
    return pairwise(indexed.lower().split())


def _expression(words: str) -> _Expression:
    """Return the FTS5 expression of a term, quoted so that FTS5 parses no syntax in it, and the prefix to check."""
    if not words.endswith("*"):
        return f'"{words}"', ""
    prefix = words[:-1]
    head, third = prefix[:STEM_PREFIX], prefix[2:3].lower()
    expression = f'"{head.rstrip("Yy") or head}" *'  # the stem of "try" is "tri"
    if third in (prefix[1].lower(), "e", "i"):  # the stems of "adding", "tied" and "being" are "ad", "ti" and "be"
        expression += f' OR "{prefix[:2]}"'
    return expression, fold(prefix)


def _define_functions(connection: sqlite3.Connection) -> None:
    connection.create_function("has_prefix", 2, _has_prefix, deterministic=True)
    connection.create_function("has_words", 2, _has_words, deterministic=True)


def _has_prefix(indexed: str, prefix: str) -> bool:
    return f" {prefix}" in f" {fold(indexed)}"


def _has_words(indexed: str, words: str) -> bool:
    return f" {words} " in f" {fold(indexed)} "


def _matching(signal: WordSignal, prefix: str) -> str:
    table = _TABLES[signal]
    condition = f" AND has_prefix({_INDEXED[signal]}, ?)" if prefix else ""
    return f"FROM {table} WHERE {table} MATCH ?{condition}"


def _count(
    connection: sqlite3.Connection, signal: WordSignal, expressions: Sequence[_Expression]
) -> npt.NDArray[np.int64]:
    counts = []
    for expression, prefix in expressions:
        query = f"SELECT count(*) {_matching(signal, prefix)}"
        counts.append(connection.execute(query, (expression, prefix)[: 1 + bool(prefix)]).fetchone()[0])
    return np.array(counts, np.int64)


def _rarities(counts: npt.NDArray[np.int64], total: int) -> npt.NDArray[np.float64]:
    """Return rarities: 1 for up to ``RARE`` rows, then decreasing like the inverse document frequency of BM25."""

    def idf(count: npt.NDArray[np.int64] | int) -> npt.NDArray[np.float64]:
        return np.log1p((np.maximum(total - count, 0) + 0.5) / (np.asarray(count) + 0.5))

    rarities = np.minimum(1.0, idf(counts) / idf(max(1, min(RARE, total // 5))))
    return np.where((counts > 0) & (rarities >= MIN_RARITY), rarities, 0.0)


def _select(
    connection: sqlite3.Connection,
    signal: WordSignal,
    expressions: Sequence[_Expression],
    rarities: npt.NDArray[np.float64],
) -> dict[int, int]:
    """Return by clip id (``name``: video id) the bits of matching expressions; too common expressions are ignored."""
    used = np.flatnonzero(rarities).tolist()
    if not used:
        return {}
    parts = " UNION ALL ".join(f"SELECT rowid, ? {_matching(signal, expressions[index][1])}" for index in used)
    query = f"WITH matches (id, bit) AS ({parts}) SELECT id, sum(bit) FROM matches GROUP BY id"
    values: list[int | str] = []
    for index in used:
        expression, prefix = expressions[index]
        values += [1 << index, expression, *([prefix] if prefix else [])]
    return dict(connection.execute(query, values).fetchall())


def _videos_of(connection: sqlite3.Connection, clip_ids: Iterable[int]) -> dict[int, int]:
    query = "SELECT id, video_id FROM clips WHERE id IN (SELECT value FROM json_each(?))"
    return dict(connection.execute(query, (json.dumps(list(clip_ids)),)).fetchall())


def _normalize(text: str) -> str:
    """Normalise characters (composed, usual width) and replace everything but letters, marks and digits by spaces."""
    return _APOSTROPHE.sub("", unicodedata.normalize("NFKC", text)).translate(_letters)


def _index_name(name: str) -> str:
    """Return the indexed form of a name; append the name split at changes of case and at digits, if it differs."""
    parts = _WORD_BOUNDARY.sub(" ", name)
    return normalize_for_index(name if parts == name else f"{name} {parts}")


def _split_terms(text: str) -> list[str]:
    """Return the words of a text; runs of a script without spaces become pairs of adjacent characters."""
    terms: list[str] = []
    for word in _normalize(text).split():
        position = 0
        for match in UNSPACED.finditer(word):
            run = match.group()
            terms.append(word[position : match.start()])
            terms += [f"{first} {second}" for first, second in pairwise(run)] if len(run) > 1 else [run]
            position = match.end()
        terms.append(word[position:])
    return [term for term in terms if term]
