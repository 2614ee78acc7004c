"""Full-text index of titles and spoken words, by SQLite's FTS5 with BM25.

FTS5 splits words at spaces. Chinese, Japanese and Korean are written without spaces, or with endings on every word:
their characters are indexed one by one and searched in pairs, so that any two adjacent characters match. (FTS5's
trigrams match nothing shorter than three characters, as most Chinese words are.) English words are stemmed (Porter);
case and diacritics are ignored.
"""

from __future__ import annotations

import re
import sqlite3
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

MAX_TERMS = 64
"""Terms of one query that are searched for, the first ones; text models read about as many."""

_UNSPACED = re.compile(
    r"[\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff]+"
)
_APOSTROPHE = re.compile(r"(?<=\w)['\u2019](?=\w)")
_STOP_WORDS_TEXT = (
    "a an and are as at be been but by do does for from had has have he her him his i in into is it its me my no not "
    "of on or our she so that the their them there these they this those to was we were what when where which while "
    "who will with you your"
)
_STOP_WORDS = frozenset(_STOP_WORDS_TEXT.split())


class _Letters(dict[int, str]):
    """Table for ``str.translate``: letters, marks and digits stay, anything else becomes a space."""

    def __missing__(self, code: int) -> str:
        self[code] = chr(code) if unicodedata.category(chr(code))[0] in "LMN" else " "
        return self[code]


_letters = _Letters()


def normalize_for_index(text: str) -> str:
    """Return the indexed form of a text: words, and characters of scripts without spaces, separated by spaces."""
    return " ".join(_UNSPACED.sub(lambda run: f" {' '.join(run.group())} ", _normalize(text)).split())


def query_terms(texts: Iterable[str]) -> list[str]:
    """Return the distinct terms of texts, without stop words unless there is nothing else."""
    terms = [term for text in texts for term in _split_terms(text)]
    significant = [term for term in terms if term.lower() not in _STOP_WORDS] or terms
    return list(dict.fromkeys(significant))[:MAX_TERMS]


def insert_words(connection: sqlite3.Connection, title: str, clips: Sequence[tuple[int, str]]) -> None:
    """Index the clips (id, spoken words) of a video with this title."""
    normalized_title = normalize_for_index(title)
    connection.executemany(
        "INSERT INTO words (rowid, title, text) VALUES (?, ?, ?)",
        [(clip_id, normalized_title, normalize_for_index(text)) for clip_id, text in clips],
    )


def delete_words(connection: sqlite3.Connection, first_clip: int, clip_count: int) -> None:
    """Remove ``clip_count`` clips from ``first_clip`` on from the index."""
    connection.execute("DELETE FROM words WHERE rowid >= ? AND rowid < ?", (first_clip, first_clip + clip_count))


def search_fulltext(
    connection: sqlite3.Connection, terms: Sequence[str], limit: int, accepts: Callable[[int], bool]
) -> list[tuple[int, float]]:
    """Return the at most ``limit`` best (clip id, BM25 score) that match any of ``terms``, best first, ties by id.

    Terms in more than half of the clips are ignored if a rarer one matches.

    Args:
        connection: in a transaction.
        terms: as ``query_terms`` returns them; at least one.
        limit: maximum number of clips.
        accepts: whether a clip id may be returned.
    """
    rows = connection.execute(
        "SELECT rowid, -bm25(words) AS score FROM words WHERE words MATCH ? ORDER BY score DESC, rowid",
        (_match_expression(_drop_common(connection, terms)),),
    )
    matches: list[tuple[int, float]] = []
    for clip_id, score in rows:
        if len(matches) == limit:
            break
        if accepts(clip_id):
            matches.append((int(clip_id), float(score)))
    return matches


def _drop_common(connection: sqlite3.Connection, terms: Sequence[str]) -> Sequence[str]:
    # BM25 gives common terms next to nothing, but their clips would fill the list. Counting costs a twentieth of
    # scoring.
    total = connection.execute("SELECT coalesce(sum(clip_count), 0) FROM videos").fetchone()[0]
    query = "SELECT count(*) FROM words WHERE words MATCH ?"
    counts = {term: connection.execute(query, (_match_expression([term]),)).fetchone()[0] for term in terms}
    return [term for term in terms if 0 < counts[term] <= total / 2] or terms


def _match_expression(terms: Sequence[str]) -> str:
    """Return the FTS5 expression for any of the terms, quoted so that FTS5 never parses what users write."""
    return " OR ".join(f'"{term}"' for term in terms)


def _normalize(text: str) -> str:
    """Return composed characters in their usual width, with a space for anything but letters, marks and digits."""
    return _APOSTROPHE.sub("", unicodedata.normalize("NFKC", text)).translate(_letters)


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
