from __future__ import annotations

import pytest

from tests.training.data.corpus_files import concept
from training.data.pictogram_captions import captions_of, country_of, noun_phrase, time_of
from training.data.pictogram_concepts import Concept

DOG = concept("dog face", group="animals-nature", subgroup="animal-mammal", tags=("dog", "pet", "puppy"))
PERU = concept("flag: Peru", "1f1f5-1f1ea", "flags", "country-flag", tags=("PE", "flag"))


@pytest.mark.parametrize(
    ("given", "phrase"),
    [
        (DOG, "a dog face"),
        (concept("octopus"), "an octopus"),
        (concept("unicorn"), "a unicorn"),
        (concept("glasses"), "glasses"),
        (concept("compass"), "a compass"),
        (concept("one o'clock"), "a clock showing one o'clock"),
        (concept("eleven-thirty"), "a clock showing half past eleven"),
        (concept("keycap: 5"), "a key with 5 on it"),
        (concept("person: red hair"), "a person with red hair"),
        (concept("man running: facing right"), "a man running facing right"),
        (PERU, "the flag of Peru"),
        (
            concept("flag: United States", group="flags", subgroup="country-flag"),
            "the flag of the United States",
        ),
    ],
)
def test_labels_read_well_inside_a_sentence(given: Concept, phrase: str) -> None:
    assert noun_phrase(given) == phrase


def test_the_label_is_the_first_caption_and_none_comes_twice() -> None:
    for still in (True, False):
        captions = captions_of(DOG, still=still, style="google")
        assert captions[0] == "dog face"
        assert "a dog face, a mammal" in captions
        assert len(set(captions)) == len(captions)
        assert any("pet" in caption for caption in captions)


def test_captions_of_a_still_do_not_speak_of_an_animation() -> None:
    moving, still = (" ".join(captions_of(DOG, still=s, style="x")) for s in (False, True))
    assert not any(word in still for word in ("animat", "clip", "moving"))
    assert any(word in moving for word in ("animat", "clip", "moving"))


def test_codes_of_countries_are_not_told_as_words() -> None:
    assert not any("PE" in caption.split() for caption in captions_of(PERU, still=True, style="google"))


def test_only_clock_faces_tell_the_time_and_only_flags_have_a_country() -> None:
    assert time_of(concept("ten-thirty")) == "half past ten"
    assert time_of(concept("alarm clock")) is None
    assert country_of(PERU) == "Peru"
    assert country_of(concept("pirate flag", group="flags", subgroup="flag")) is None
