"""The words of a caption, and how much each counts in EMScore's precision.

Shi and others weigh words by their inverse document frequency over a corpus of captions. A service has no such corpus,
and a weight made of the captions of one request would let a caption's score depend on its company. So the weight is
what that frequency mostly amounts to: 0 for words that only say how others belong together, 1 for all others.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
_FUNCTION_WORDS_LISTED = (
    "a an the this that these those some any each and or but nor so yet as than of in on at to by for from with "
    "without into onto over under about around near beside between off out through across along against is are "
    "was were be been being am do does did has have had having will would can could may might must shall should "
    "it its he him his she her hers they them their theirs i me my we us our you your who whom whose which what "
    "when where while there here if then"
)
_FUNCTION_WORDS = frozenset(_FUNCTION_WORDS_LISTED.split())


def words_of(caption: str, most: int) -> list[str]:
    """The first ``most`` words in lower case, in their order; the caption itself where it has none (``"!?"``).

    A script that is written without spaces is one word.
    """
    return [word.lower() for word in _WORD.findall(caption)[:most]] or [caption.strip()]


def weights_of(words: Sequence[str]) -> list[float]:
    """0 for English function words, 1 for all others; 1 for each where there are no others."""
    weights = [0.0 if word in _FUNCTION_WORDS else 1.0 for word in words]
    return weights if any(weights) else [1.0] * len(words)
