"""Pictograms: public animations and drawings of about 1,900 named concepts, fetched as npm packages.

Videos are Microsoft's Fluent Emoji (256x256 animated WebP), stills are Google's Noto and Twitter's Twemoji
(64x64 PNG), words come from Emojibase (English labels and tags of CLDR). Skin-toned variants are left out.

Split by concept, for stills and videos alike: see training.data.pictogram_concepts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from training.data.corpus import CorpusError
from training.data.example import Example, Question
from training.data.packed import EncodedMedia, Media, Origin
from training.data.pictogram_concepts import SPLIT_RULE, Concept, Package, fetch, normal_code, read_concepts, split_of
from training.data.pictogram_text import captions_of, country_of, questions_by_code
from training.data.webdataset import tar_members

_MOVING = tuple(
    Package(f"@lobehub/fluent-emoji-anim-{number}", "1.0.0", sha256, "MIT")
    for number, sha256 in (
        (1, "4c03ac178c1eabf2e2a16dd498f3cc2b92dc30ec3466ae38fdc497d4774c99ea"),
        (2, "e431da8172e394036c330faa77648d6fbbae1fd3b0be95637c4497c9075019c0"),
        (3, "3624d0c34c819c1794b74ccf6ae9034adff7c4cb6318dd2a645145f0196feb43"),
        (4, "3d4c08f1e321f70808ef4996aba0ab575a9d97b6c56ffffc92cf6161a7836aa3"),
    )
)
_GOOGLE = Package(
    "emoji-datasource-google",
    "16.0.0",
    "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
    "Apache-2.0 (Noto Emoji)",
)
_TWITTER = Package(
    "emoji-datasource-twitter",
    "16.0.0",
    "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
    "CC-BY-4.0 (Twemoji)",
)
_WORDS = Package("emojibase-data", "17.0.0", "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a", "MIT")
PACKAGES = (*_MOVING, _GOOGLE, _TWITTER, _WORDS)
Packages = Mapping[str, Path]
Concepts = Mapping[str, Concept]


def _origin(packages: tuple[Package, ...]) -> Origin:
    used = (*packages, _WORDS)
    source = ", ".join(f"npm {package.name}@{package.version}" for package in used)
    return Origin(source, "; ".join(f"{package.name}: {package.licence}" for package in used), SPLIT_RULE)


VIDEOS = _origin(_MOVING)
STILLS = _origin((_GOOGLE, _TWITTER))


def fetch_packages(cache: Path) -> dict[str, Path]:
    """Fetch the packages of this corpus (870 MB) into `cache` where missing. Raises CorpusError."""
    return fetch(PACKAGES, cache)


def read_words(packages: Mapping[str, Path]) -> dict[str, Concept]:
    """Return all concepts of all splits by code, without skin tones. Raises CorpusError."""
    return read_concepts(packages[_WORDS.name])


def videos(packages: Packages, concepts: Concepts, split: str) -> Iterator[tuple[Example, Media]]:
    """Yield the animations of the concepts of a split; keys are fluent-CODE. Raises CorpusError."""
    chosen = _of_split(concepts, split)
    questions = questions_by_code(chosen)
    codes: set[str] = set()
    for package in _MOVING:
        for code, media in _pictures(packages[package.name], "package/assets/", ".webp", chosen):
            if code not in codes:  # some concepts are in two packages, under two spellings of one code
                codes.add(code)
                yield _example(chosen[code], "fluent", False, questions[code]), media


def stills(packages: Packages, concepts: Concepts, split: str) -> Iterator[tuple[Example, Media]]:
    """Yield the drawings of the concepts of a split, of two vendors; keys are google-CODE and twitter-CODE."""
    chosen = _of_split(concepts, split)
    questions = questions_by_code(chosen)
    for package, style in ((_GOOGLE, "google"), (_TWITTER, "twitter")):
        for code, media in _pictures(packages[package.name], f"package/img/{style}/64/", ".png", chosen):
            yield _example(chosen[code], style, True, questions[code]), media


def _of_split(concepts: Mapping[str, Concept], split: str) -> dict[str, Concept]:
    return {code: concept for code, concept in concepts.items() if split_of(code) == split}


def _pictures(
    archive: Path, folder: str, suffix: str, concepts: Mapping[str, Concept]
) -> Iterator[tuple[str, EncodedMedia]]:
    def accept(name: str) -> bool:
        return name.startswith(folder) and name.endswith(suffix) and _code_of(archive, name) in concepts

    for name, data in tar_members(archive, accept):
        code = _code_of(archive, name)
        yield code, EncodedMedia(f"{code}{suffix}", data)


def _code_of(archive: Path, name: str) -> str:
    try:
        return normal_code(PurePosixPath(name).stem)
    except ValueError:
        raise CorpusError(f"{archive}: {name}: the file name is no hexcode") from None


def _example(concept: Concept, style: str, still: bool, questions: tuple[Question, ...]) -> Example:
    attributes = {
        "hexcode": concept.code,
        "label": concept.label,
        "tags": list(concept.tags),
        "group": concept.group,
        "subgroup": concept.subgroup,
        "style": style,
    }
    if country := country_of(concept):
        attributes["country"] = country
    return Example(
        key=f"{style}-{concept.code}",
        captions=captions_of(concept, still=still, style=style),
        questions=questions,
        still=still,
        attributes=attributes,
    )
