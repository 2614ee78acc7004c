"""Language codes brought to one form, so that `en` finds what is called `eng`."""

from __future__ import annotations

# Containers state ISO 639-2, for some languages in two variants; files are mostly named with ISO 639-1.
_CODES = """
ar ara|bg bul|bn ben|ca cat|cs ces cze|da dan|de deu ger|el ell gre|en eng|es spa|et est|eu eus baq|fa fas per
fi fin|fr fra fre|gl glg|he heb|hi hin|hr hrv|hu hun|hy hye arm|id ind|is isl ice|it ita|ja jpn|ka kat geo|ko kor
lt lit|lv lav|mk mkd mac|ms msa may|nb nob|nl nld dut|nn nno|no nor|pl pol|pt por|ro ron rum|ru rus|sk slk slo
sl slv|sq sqi alb|sr srp|sv swe|ta tam|te tel|th tha|tr tur|uk ukr|ur urd|vi vie|zh zho chi
"""
_SHORT_OF = {
    long: short
    for short, *longs in (codes.split() for codes in _CODES.strip().replace("\n", "|").split("|"))
    for long in longs
}


def normal_language(language: str) -> str:
    """In lower case, its parts parted by hyphens, ISO 639-1 where that has a code for it: ``de-at`` of ``GER_AT``."""
    first, *rest = language.lower().replace("_", "-").split("-")
    return "-".join([_SHORT_OF.get(first, first), *rest])
