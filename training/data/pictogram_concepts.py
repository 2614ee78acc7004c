"""What pictograms mean (Emojibase's labels and tags, by code) and which split each concept belongs to.

The normal form of a code: the hexadecimal code points in lower case, each padded to four digits, without
fe0f, joined by hyphens; a sequence of tag characters ends with e007f.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.data.errors import CorpusError
from training.data.key_hash import first_byte
from training.data.webdataset import tar_members

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
    """What a pictogram means, whoever drew it. `group`, `subgroup`: Unicode's keys, like animal-mammal."""

    code: str
    label: str
    tags: tuple[str, ...]
    group: str
    subgroup: str
    names: tuple[str, ...] = ()


def normal_code(code: str) -> str:
    """The normal form of a hexcode, however a package writes it. Raises ValueError when it is none."""
    points = [f"{int(part, 16):04x}" for part in re.split("[-_]", code)]
    points = [point for point in points if point != "fe0f"]
    if points and points[-1].startswith("e00") and points[-1] != "e007f":
        points.append("e007f")
    return "-".join(points)


def is_skin_toned(code: str) -> bool:
    """True where a code in normal form names a skin tone."""
    return not _SKIN_TONES.isdisjoint(code.split("-"))


def split_of(code: str) -> str:
    """train, val or test for a code in normal form."""
    first = first_byte(code)
    return "test" if first < TEST_BYTES else "val" if first < VALIDATION_BYTES else "train"


def read_concepts(archive: Path) -> dict[str, Concept]:
    """{code: concept} of all in Emojibase's package, without skin tones. Raises CorpusError."""
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
