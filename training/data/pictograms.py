"""Pictograms: public animations and drawings of about 1,900 named concepts, fetched as npm packages.

Videos are Microsoft's Fluent Emoji (256x256 animated WebP), stills are Google's Noto and Twitter's Twemoji
(64x64 PNG), words come from Emojibase (English labels and tags of CLDR). Skin-toned variants are left out. The
training split has further stills in eight styles, drawn from Iconify's icon sets (SVG); none is of Fluent Emoji.

Split by concept, for stills and videos alike: see training.data.pictogram_concepts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from training.data.corpus import CorpusError
from training.data.example import Example, Question
from training.data.packed import EncodedMedia, Media, Origin
from training.data.pictogram_concepts import (
    SPLIT_RULE,
    Concept,
    Package,
    codes_by_name,
    fetch,
    normal_code,
    normal_name,
    read_concepts,
    split_of,
)
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
_ICON_SETS = {
    style: Package(f"@iconify-json/{style}", version, sha256, licence)
    for style, version, sha256, licence in (
        (
            "noto",
            "1.2.9",
            "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
            "Apache-2.0 (Noto Emoji)",
        ),
        (
            "twemoji",
            "1.2.5",
            "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
            "CC-BY-4.0 (Twemoji)",
        ),
        (
            "openmoji",
            "1.2.29",
            "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5",
            "CC-BY-SA-4.0 (OpenMoji)",
        ),
        (
            "emojione",
            "1.2.3",
            "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
            "CC-BY-4.0 (Emoji One 2, EmojiTwo)",
        ),
        (
            "emojione-v1",
            "1.2.3",
            "6641d59d48a42823fdc2b84e7427e9f302944eb98d2c7d94d6e67c139e7b37b3",
            "CC-BY-SA-4.0 (Emoji One 1)",
        ),
        (
            "noto-v1",
            "1.2.5",
            "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
            "Apache-2.0 (Noto Emoji 1)",
        ),
        (
            "fxemoji",
            "1.2.2",
            "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef",
            "Apache-2.0, artwork CC-BY-4.0 (Firefox OS Emoji, Mozilla)",
        ),
        (
            "streamline-emojis",
            "1.2.4",
            "5dac87c876b322500989828c5823143e0100d78881627a2e4081a4b897cbfdbc",
            "CC-BY-4.0 (Streamline)",
        ),
    )
}
"""Drawings for the training split, by style."""
_HOMONYMS = {("streamline-emojis", "turkey")}
"""Icons, by style and name, that show something else than the concept of that name: the flag, not the bird."""
_DRAWN_SIZE = 256
"""Pixels a side."""
_WORDS = Package("emojibase-data", "17.0.0", "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a", "MIT")
PACKAGES = (*_MOVING, _GOOGLE, _TWITTER, *_ICON_SETS.values(), _WORDS)
Packages = Mapping[str, Path]
Concepts = Mapping[str, Concept]


def _origin(packages: tuple[Package, ...]) -> Origin:
    used = (*packages, _WORDS)
    source = ", ".join(f"npm {package.name}@{package.version}" for package in used)
    return Origin(source, "; ".join(f"{package.name}: {package.licence}" for package in used), SPLIT_RULE)


VIDEOS = _origin(_MOVING)
STILLS = _origin((_GOOGLE, _TWITTER, *_ICON_SETS.values()))


def fetch_packages(cache: Path) -> dict[str, Path]:
    """Fetch the packages of this corpus (880 MB) into `cache` where missing. Raises CorpusError."""
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
    """Yield the drawings of the concepts of a split; keys are STYLE-CODE. Raises CorpusError.

    Every split has the styles google and twitter; in the training split those of the icon sets follow.
    """
    chosen = _of_split(concepts, split)
    questions = questions_by_code(chosen)
    for package, style in ((_GOOGLE, "google"), (_TWITTER, "twitter")):
        for code, media in _pictures(packages[package.name], f"package/img/{style}/64/", ".png", chosen):
            yield _example(chosen[code], style, True, questions[code]), media
    if split == "train":
        names = codes_by_name(concepts)
        for style, package in _ICON_SETS.items():
            for code, media in _icons(packages[package.name], style, names, chosen):
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


def _icons(
    archive: Path, style: str, names: Mapping[str, str], concepts: Mapping[str, Concept]
) -> Iterator[tuple[str, EncodedMedia]]:
    """Yield the first icon of each concept, known by its code, or by its name in sets without codes."""
    members = ("package/chars.json", "package/icons.json")
    contents = {name: json.loads(data) for name, data in tar_members(archive, lambda name: name in members)}
    if missing := sorted(set(members) - set(contents)):
        raise CorpusError(f"{archive}: {missing} missing")
    chars, icons = (contents[name] for name in members)
    codes = {name: code for code, name in zip(map(normal_code, chars), chars.values(), strict=True) if code in concepts}
    drawn: set[str] = set()
    for name, icon in icons["icons"].items():
        code = codes.get(name, "") if chars else _code_of_name(name, names)
        if code in concepts and code not in drawn and (style, name) not in _HOMONYMS:
            drawn.add(code)
            yield code, EncodedMedia(f"{code}.png", _png({**icons, **icon}))


def _code_of_name(name: str, names: Mapping[str, str]) -> str:
    """Return the code of an icon's name, which may end in the number of a variant, such as fox-face-2; "" for none."""
    return names.get(normal_name(name)) or names.get(normal_name(name.rstrip("0123456789")), "")


def _png(icon: Mapping[str, Any]) -> bytes:
    import resvg_py  # of the extra `train`

    box = f"{icon.get('left', 0)} {icon.get('top', 0)} {icon.get('width', 16)} {icon.get('height', 16)}"
    size = f'width="{_DRAWN_SIZE}" height="{_DRAWN_SIZE}" viewBox="{box}"'
    namespaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return resvg_py.svg_to_bytes(f"<svg {namespaces} {size}>{icon['body']}</svg>", skip_system_fonts=True)


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
