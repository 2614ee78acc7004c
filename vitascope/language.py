"""Language of texts, by py3langid (the extra `language`)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitascope.tokenizer import Tokenizer

MIN_WORDS, MIN_LETTERS = 3, 4
"""Minimum length of texts to identify: words in Latin script, characters in other scripts, some without spaces."""
MAX_KNOWN, MIN_OTHER = 0.01, 0.5
"""A text is in an unknown language if the known languages together are less probable than the first value, and another
language is more probable than the second.

Of 11,962 English captions, questions, names and phrases with foreign words, mostly of 3 to 8 words, none is mistaken
for another language; of 116 queries of 3 to 8 words in 18 other languages, 89 % are recognized.
"""
_WORD = re.compile(r"[^\W\d_]+")


def unknown_language(text: str, known: Sequence[str], tokenizer: Tokenizer | None = None) -> str | None:
    """Return the ISO 639 code of a text's language if it is certainly none of the known languages.

    Args:
        text: a query.
        known: ISO 639 codes of the known languages.
        tokenizer: tokenizer of the model that knows these languages. An ASCII text whose words are all single tokens is
            assumed to be in a known language, without loading py3langid.

    Returns:
        None if the text is in a known language, too short or uncertain, or py3langid is not installed.
    """
    words = _WORD.findall(text)
    letters = "".join(words)
    is_latin = any(unicodedata.name(letter, "").startswith("LATIN") for letter in letters)
    if len(words) < MIN_WORDS and (is_latin or len(letters) < MIN_LETTERS):
        return None
    if tokenizer is not None and text.isascii() and tokenizer.knows(words):
        return None
    identifier = _identifier()
    if identifier is None:
        return None
    probabilities = identifier.rank(text)
    language, probability = probabilities[0]
    is_known = sum(p for code, p in probabilities if code in known) >= MAX_KNOWN
    return None if is_known or probability <= MIN_OTHER else str(language)


@lru_cache(maxsize=1)
def _identifier() -> Any:
    """Return the model of py3langid, which takes half a second to load; None if it is not installed."""
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        return None
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
