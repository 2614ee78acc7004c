"""Language of queries."""

from __future__ import annotations

import sys

import pytest

from vitascope import language
from vitascope.cli.options import default_bundle
from vitascope.language import unknown_language
from vitascope.tokenizer import Tokenizer

ENGLISH = [
    "a submarine under the ice",
    "a red square moves left",
    "a skate park",
    "tango dancers in Buenos Aires",
    "sushi chef in Tokyo",
    "a man in a kilt",
    "goal celebration",
    "CCTV of parking lot",
    "arm wrestling at a table",
    "drone shot of Rio de Janeiro",
    "a Doberman and a Rottweiler",
    "video of zebra",
]
OTHERS = {
    "de": "ein Hund rennt am Strand",
    "fr": "un chien court sur la plage",
    "es": "un perro corre por la playa",
    "nl": "een vrouw snijdt groenten in de keuken",
    "pl": "mężczyzna jedzie na rowerze w deszczu",
    "tr": "kedi kanepede uyuyor",
    "zh": "一只狗在沙滩上奔跑",
    "ja": "犬が浜辺を走っている",
    "ko": "개가 해변에서 달린다",
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """The tokenizer of the included bundle, with an English vocabulary."""
    return Tokenizer.open(default_bundle() / "tokenizer.json", max_length=40)


@pytest.mark.parametrize("text", ENGLISH)
def test_english_is_not_mistaken_for_another_language(text: str, tokenizer: Tokenizer) -> None:
    assert unknown_language(text, ["en"]) is None
    assert unknown_language(text, ["en"], tokenizer) is None


@pytest.mark.parametrize(("code", "text"), OTHERS.items())
def test_other_languages_are_recognized(code: str, text: str, tokenizer: Tokenizer) -> None:
    assert unknown_language(text, ["en"]) == code
    assert unknown_language(text, ["en"], tokenizer) == code
    assert unknown_language(text, ["en", code]) is None


def test_a_text_of_words_that_the_model_knows_is_not_judged(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise AssertionError("py3langid was loaded, which takes half a second")

    monkeypatch.setattr(language, "_identifier", fail)
    assert unknown_language("A dog runs on the beach.", ["en"], tokenizer) is None
    with pytest.raises(AssertionError):
        unknown_language("a dog runs on the strand of Swakopmund", ["en"], tokenizer)


@pytest.mark.parametrize("text", ["", "Hund", "ein Hund", "犬", "7 11 13", "!?", "café"])
def test_short_texts_are_not_judged(text: str) -> None:
    assert unknown_language(text, ["en"]) is None


def test_without_the_extra_no_language_is_recognized(monkeypatch: pytest.MonkeyPatch) -> None:
    language._identifier.cache_clear()
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    assert unknown_language(OTHERS["de"], ["en"]) is None
    language._identifier.cache_clear()
