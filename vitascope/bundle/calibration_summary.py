"""What a bundle's probabilities were calibrated on, in words, as its manifest states it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitascope.bundle.manifest import Manifest, Task

_TOLD: tuple[tuple[Task, str, str, str, str], ...] = (
    ("matching", "match and fused", "match", "pairs", "pairs of clip and caption"),
    ("answering", "answers", "answer", "questions", "questions"),
)


def calibrated(manifest: Manifest) -> list[str]:
    """One sentence, without its full stop, for each kind of probability that the bundle gives and states something of.

    Numbers are expected calibration errors, fractions.
    """
    stated = _mapping(manifest.extra.get("calibration"))
    if not stated and (origin := manifest.extra.get("variant_of")):  # earlier versions kept it, and did not say so
        stated = {"kept": [row[1] for row in _TOLD], "kept_of": origin}
    if not stated:
        provenance = _mapping(manifest.extra.get("provenance"))
        stated = _mapping(provenance.get("calibration"))
        if provenance.get("calibration_kept"):
            stated = {**stated, "kept": ["match and fused"]}
    return [words for row in _TOLD if row[0] in manifest.tasks if (words := _sentence(stated, *row[1:])) is not None]


def _sentence(stated: Mapping[str, Any], what: str, key: str, counted: str, of_what: str) -> str | None:
    count = stated.get(f"{key} {counted}")
    if count is not None:
        splits = f" of {', '.join(stated['fitted_on'])}" if "fitted_on" in stated else ""
        kept, after = stated.get(f"{key} error kept"), stated.get(f"{key} error after")
        was = "" if kept is None else f", {kept:.3f} as they were"
        error = "" if after is None else f"; expected error {after:.3f}{was}"
        return f"Probabilities ({what}) are fitted on {count:,.0f} {of_what}{splits}{error}"
    if what in stated.get("kept", ()):
        of = _mapping(stated.get("kept_of"))
        whose = f"{of['name']} {of['version']}, whose graphs they were fitted to" if of else "the model before this one"
        return f"Probabilities ({what}) are calibrated as those of {whose}"
    return None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
