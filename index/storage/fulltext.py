"""Words: which clips have them in their video's title or in what is said, by SQLite's full-text index (FTS5, BM25).

FTS5 finds words between spaces. Chinese, Japanese and Korean are written without them, or with endings on every word:
their characters are kept one by one and looked for in pairs, so that any two that stand together are found. (FTS5's
trigrams find nothing that is shorter than three characters, as most Chinese words are.) English endings are cut off
(Porter), case and diacritics do not count.
"""

from __future__ import annotations

import re
import sqlite3
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

MAX_TERMS = 64
"""Words of one query that are looked for, the first ones; models read about as many."""

_UNSPACED = re.compile(
    r"[\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff]+"
)
_APOSTROPHE = re.compile(r"(?<=\w)['\u2019](?=\w)")
_COMMON_WORDS = (
    "a an and are as at be been but by do does for from had has have he her him his i in into is it its me my no not "
    "of on or our she so that the their them there these they this those to was we were what when where which while "
    "who will with you your"
)
_COMMON = frozenset(_COMMON_WORDS.split())
"""English words that say how other words belong together: they stand nearly everywhere and tell clips apart badly."""


class _Letters(dict[int, str]):
    """For ``str.translate``: letters, marks and digits stay, all else is a space."""

    def __missing__(self, code: int) -> str:
        self[code] = chr(code) if unicodedata.category(chr(code))[0] in "LMN" else " "
        return self[code]


_letters = _Letters()


def spaced(text: str) -> str:
    """``text`` as the index keeps it: words, and characters of scripts without spaces, between spaces."""
    return " ".join(_UNSPACED.sub(lambda run: f" {' '.join(run.group())} ", _normal(text)).split())


def query_terms(texts: Iterable[str]) -> list[str]:
    """What is looked for of the texts: their words, each once; common ones only where there are no others."""
    terms = [term for text in texts for term in _terms(text)]
    telling = [term for term in terms if term.lower() not in _COMMON] or terms
    return list(dict.fromkeys(telling))[:MAX_TERMS]


def insert_words(connection: sqlite3.Connection, title: str, clips: Sequence[tuple[int, str]]) -> None:
    """Make the clips (id, what is said) of a video of this title findable, in an open write transaction."""
    name = spaced(title)
    connection.executemany(
        "INSERT INTO words (rowid, title, text) VALUES (?, ?, ?)",
        [(clip_id, name, spaced(text)) for clip_id, text in clips],
    )


def delete_words(connection: sqlite3.Connection, first_clip: int, clip_count: int) -> None:
    """Forget ``clip_count`` clips from ``first_clip`` on, in an open write transaction."""
    connection.execute("DELETE FROM words WHERE rowid >= ? AND rowid < ?", (first_clip, first_clip + clip_count))


def search_fulltext(
    connection: sqlite3.Connection, terms: Sequence[str], limit: int, may_be_found: Callable[[int], bool]
) -> list[tuple[int, float]]:
    """The at most ``limit`` best (clip id, BM25 score, higher is better) that have any of ``terms``; ties by id.

    A term that more than half of the clips have tells none apart: it is passed over where a rarer one is found, too.
    """
    rows = connection.execute(
        "SELECT rowid, -bm25(words) AS score FROM words WHERE words MATCH ? ORDER BY score DESC, rowid",
        (_any(_rare(connection, terms)),),
    )
    found: list[tuple[int, float]] = []
    for clip_id, score in rows:
        if len(found) == limit:
            break
        if may_be_found(clip_id):
            found.append((int(clip_id), float(score)))
    return found


def _rare(connection: sqlite3.Connection, terms: Sequence[str]) -> Sequence[str]:
    # Counting costs a twentieth of scoring. BM25 gives such words next to nothing, but their clips would fill the list.
    total = connection.execute("SELECT coalesce(sum(clip_count), 0) FROM videos").fetchone()[0]
    counts = {
        term: connection.execute("SELECT count(*) FROM words WHERE words MATCH ?", (_any([term]),)).fetchone()[0]
        for term in terms
    }
    return [term for term in terms if 0 < counts[term] <= total / 2] or terms


def _any(terms: Sequence[str]) -> str:
    """The FTS5 expression for any of the terms. They are quoted: what users write is looked for, never obeyed."""
    return " OR ".join(f'"{term}"' for term in terms)


def _normal(text: str) -> str:
    """Composed characters in their usual width; what is no letter, mark or digit is a space."""
    return _APOSTROPHE.sub("", unicodedata.normalize("NFKC", text)).translate(_letters)


def _terms(text: str) -> list[str]:
    """Words, and pairs of neighbours in runs of characters without spaces."""
    terms: list[str] = []
    for word in _normal(text).split():
        place = 0
        for run in _UNSPACED.finditer(word):
            terms += [word[place : run.start()], *_pairs(run.group())]
            place = run.end()
        terms.append(word[place:])
    return [term for term in terms if term]


def _pairs(run: str) -> list[str]:
    return [f"{a} {b}" for a, b in pairwise(run)] if len(run) > 1 else [run]
