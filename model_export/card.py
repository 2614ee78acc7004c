"""The model card: what a bundle is for, what it is not for, what it was made of, and how well it does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_export.json_file import read_object
from model_export.optimize.report import variant_of, variant_section
from model_export.parity.checks import ParityReport
from model_export.parity.variants import beside_section
from model_export.sources import Source
from training import adaptation
from training.models.architectures import read_config
from vitascope.bundle.calibration_summary import calibrated
from vitascope.bundle.manifest import Manifest, Strict
from vitascope.errors import InvalidInput

Metrics = Mapping[str, Mapping[str, float]]
"""{corpus: {metric: value}}, as `vitascope evaluate --out` writes it."""

NOT_KINDS = ("(single word)", "(held-out combinations)")
"""Subsets that are reported like kinds of questions, but mix all of them."""

HEADLINES = (
    "t2v R@1",
    "t2v R@10",
    "v2t R@1",
    "t2v R@1 (all concepts)",
    "t2v R@10 (all concepts)",
    "tau-c similarity (dropped)",
    "tau-c match (dropped)",
    "tau-c fused (dropped)",
    "right caption similarity",
    "right caption match",
    "right caption fused",
    "exact",
)
"""Metrics that the manifest repeats; the card has them all."""


class Provenance(Strict):
    """How a bundle came about; kept in the manifest's `extra`, so that its card can be written again."""

    recipe: str
    seed: int
    start: str
    step: int
    config: dict[str, Any]
    """Of the model's architecture, see `training.models.architectures.read_config`."""
    answers: int
    sources: list[Source]
    """Corpora first, pretrained starts after."""
    calibration: dict[str, float]
    """Calibration errors before and after, see `calibrate`."""
    calibration_kept: bool = False
    """Match and fused probabilities are calibrated as those of the model before."""


@dataclass(frozen=True)
class CardFacts:
    """Everything that the card states. `metrics` is empty where nothing was measured yet."""

    manifest: Manifest
    provenance: Provenance
    report: ParityReport
    metrics: Metrics


def read_metrics(path: Path) -> dict[str, dict[str, float]]:
    """An evaluation's JSON. Raises InvalidInput when it is not {corpus: {metric: number}}."""
    expected = "{corpus: {metric: number}} was expected, as `vitascope evaluate --out` writes it"
    found = read_object("metrics", path, expected)
    for corpus, numbers in found.items():
        numeric = isinstance(numbers, dict) and all(
            isinstance(v, int | float) and not isinstance(v, bool) for v in numbers.values()
        )
        if not numeric:
            raise InvalidInput(f"metrics: {path}: {corpus}: {expected}")
    return {corpus: {k: float(v) for k, v in numbers.items()} for corpus, numbers in found.items()}


def headline_metrics(metrics: Metrics) -> dict[str, float]:
    """{"corpus metric": value} of the headlines, for the manifest."""
    return {f"{c} {m}": values[m] for c, values in metrics.items() for m in HEADLINES if m in values}


def model_card(manifest: Manifest, report: ParityReport, metrics: Metrics) -> str:
    """Markdown, from what the manifest (with its provenance), the parity report and an evaluation state."""
    provenance = Provenance.model_validate(manifest.extra["provenance"])
    facts = CardFacts(manifest, provenance, report, metrics)
    parts = (_about, _uses, _limits, _made_of, _measured, _fidelity, _reproduce, _variant)
    return "\n".join(line for part in parts if (lines := part(facts)) for line in [*lines, ""])


def _variant(f: CardFacts) -> list[str]:
    variant = variant_of(f.manifest)
    return [] if variant is None else variant_section(variant)


IN_WORDS = {
    "hd-vila": (
        "HD-VILA, size {size} (Xue et al., CVPR 2022): a video-language model that sees a clip as one",
        "high-resolution frame and low-resolution neighbours, and a text Transformer whose last layers read the",
        "sentence and the clip together.",
    ),
    "soho": (
        "SOHO, size {size} (Huang et al., CVPR 2021): an image-language model that sees a clip as its middle frame,",
        "names what it sees by the entries of a visual dictionary, and reads sentence and frame in one Transformer.",
    ),
    "visual-parsing": (
        "Visual Parsing, size {size} (Xue et al., NeurIPS 2021): an image-language model that sees a clip as its",
        "middle frame, parses it by self-attention alone, and reads sentence and frame in one Transformer.",
    ),
}
"""What each system is, for the card."""


def _about(f: CardFacts) -> list[str]:
    m, c = f.manifest, read_config(f.provenance.config)
    streams = "; ".join(f"{s.name}: {s.frames} of {s.width}x{s.height} pixels, {s.placement}" for s in m.streams)
    size = sum(entry.bytes for entry in m.files.values()) / 1e6
    return [
        f"# {m.name} {m.version}",
        "",
        *(line.format(size=c.size) for line in IN_WORDS[c.system]),
        "",
        "| | |",
        "|---|---|",
        f"| tasks | {', '.join(m.tasks)} |",
        f"| frames of a clip | {streams} |",
        f"| vector | {m.vector_width} numbers, length 1 |",
        f"| visual tokens | {m.visual_tokens} of {m.visual_width} numbers |",
        f"| text | at most {m.text_length} tokens, English |",
        f"| answers | {f.provenance.answers or 'none'} |",
        f"| size | {size:.1f} MB, weights stored as {m.precision} |",
        f"| licence | {m.licence} |",
    ]


def _uses(f: CardFacts) -> list[str]:
    lines = ["## What it is for", "", "- Finding clips in a collection by an English sentence."]
    if "matching" in f.manifest.tasks:
        lines.append("- Scoring how well captions describe a video or picture, and reranking what a search found.")
    if "answering" in f.manifest.tasks:
        lines.append(
            f"- Short questions about what is seen, answered from a closed list of {f.provenance.answers} answers."
        )
    return [
        *lines,
        "- Trying out, testing and teaching the whole way from video to answers on a machine without a GPU.",
        "",
        "## What it is not for",
        "",
        "- Decisions about people: recognizing, judging or monitoring anyone. It was neither made nor tested for it.",
        "- Safety, medical, legal or security decisions, or any use where a wrong answer harms somebody.",
        "- Moderation: it has seen no harmful material and cannot be relied on to find any.",
        f"- Uses beyond its licence: {f.manifest.licence}",
    ]


def _limits(f: CardFacts) -> list[str]:
    count = sum(stream.frames for stream in f.manifest.streams)
    frames = "one frame" if count == 1 else f"{count} frames"
    lines = [
        "## Known limits",
        "",
        "- Language: English only. Words that are rare in its data mean little to it.",
        f"- Time: it sees {frames} of a clip, however long; what happens between is lost.",
        "- It hears nothing, and reads no writing in the picture beyond single large digits.",
        "- World: what its data (below) shows. Other material, such as screens, maps, medical or aerial pictures,",
        "  still gets a score, and the score means little.",
        "- Its data is small and has habits of its own, such as which people and rooms are pictured and how they",
        "  are spoken of. Expect them in what is found first.",
    ]
    if f.provenance.answers:
        lines += [
            "- A question whose answer is not on its list is always answered wrongly. Counting, and left and right",
            "  in photographs, are mostly guesses.",
        ]
    weak = weakest(f.metrics)
    if weak:
        lines += ["- What it confuses most, percent right (chance is 50 for captions):"]
        lines += [f"  - {corpus}, {metric}: {value:.1f}" for corpus, metric, value in weak]
    return lines


def weakest(metrics: Metrics, count: int = 6) -> list[tuple[str, str, float]]:
    """The kinds of questions and of wrong captions with the lowest accuracy: (corpus, metric, percent)."""
    kinds = [
        (corpus, metric, value)
        for corpus, values in metrics.items()
        for metric, value in values.items()
        if metric.startswith(("exact (", "right caption fused (")) and not metric.endswith(("]", *NOT_KINDS))
    ]
    return sorted(kinds, key=lambda row: row[2])[:count]


def _made_of(f: CardFacts) -> list[str]:
    p = f.provenance
    return [
        "## What it was made of",
        "",
        "Weights were trained on training splits alone. Validation splits served to choose settings and to calibrate.",
        "",
        "| | what | from | terms |",
        "|---|---|---|---|",
        *(f"| {s.name} | {s.what} | {s.origin} | {s.terms} |" for s in p.sources),
        "",
        f"Recipe `{p.recipe}`, seed {p.seed}, {p.step} steps, start: {p.start}. NOTICE.md repeats the terms.",
    ]


def _measured(f: CardFacts) -> list[str]:
    if not f.metrics:
        return ["## Measured", "", "Nothing was measured when this card was written."]
    lines = [
        "## Measured",
        "",
        "Percent, or Kendall's tau-c times 100; MdR and MnR are ranks, ECE is a fraction. In parentheses: of what;",
        "in brackets: with a frame stream made uninformative.",
    ]
    for corpus, values in f.metrics.items():
        rows = [f"| {metric} | {value:.4g} |" for metric, value in values.items()]
        lines += ["", f"### {corpus}", "", "| metric | value |", "|---|---|", *rows]
    return lines


def _fidelity(f: CardFacts) -> list[str]:
    report, errors = f.report, f.provenance.calibration
    if report.beside is not None:
        return beside_section(report.beside, calibrated(f.manifest))
    lines = [
        "## Fidelity and calibration",
        "",
        "Each graph was compared with the trained model before the bundle was written (parity.json):",
        "",
        "| weights | graph | output | inputs | max difference | least cosine |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {o.precision} | {o.graph} | {o.output} | {o.inputs} | {o.max_difference:.2g} | {o.cosine:.6f} |"
        for o in report.outputs
    ]
    if report.recall:
        lines += ["", "| weights | corpus | direction | R@1 torch | R@1 bundle |", "|---|---|---|---|---|"]
    lines += [
        f"| {c.precision} | {c.corpus} | {c.direction} | {c.torch:.2f} | {c.runtime:.2f} |" for c in report.recall
    ]
    for what in ("match", "answer"):
        if f"{what} error after" in errors:
            before, after = errors[f"{what} error before"], errors[f"{what} error after"]
            lines += [
                "",
                f"Expected calibration error of {what} probabilities on validation data: {before:.3f} as trained,",
                f"{after:.3f} calibrated.",
            ]
    if f.provenance.calibration_kept:
        lines += [
            "",
            "Match and fused probabilities are calibrated as those of the model before this one: there was too little",
            "validation data at export to calibrate them anew.",
        ]
    elif not errors:
        lines += ["", "Probabilities are not calibrated: no validation data was given at export, or too little."]
    return lines


def _reproduce(f: CardFacts) -> list[str]:
    m, p, variant = f.manifest, f.provenance, variant_of(f.manifest)
    if variant is not None:
        return [
            "## How to reproduce",
            "",
            f"The card of {variant.name} says how that bundle came about. This one, on a machine like the one below:",
            "",
            "```console",
            f"$ vitascope optimize BUNDLE --budget recall={variant.recall:g} --data data/packed --out bundles/{m.name}",
            "```",
        ]
    if p.recipe == adaptation.NAME:
        return [
            "## How to reproduce",
            "",
            "```console",
            f"$ vitascope adapt FOLDER --start-from START --steps {p.step} --seed {p.seed} --out bundles/{m.name}",
            "```",
            "",
            "with the same videos, subtitles and start, which the bundle does not hold.",
        ]
    return [
        "## How to reproduce",
        "",
        "```console",
        "$ vitascope prepare CORPUS --source DIR --out data/packed   # once per corpus above",
        f"$ vitascope train {p.recipe} --data data/packed --seed {p.seed} --out runs/{p.recipe}",
        f"$ vitascope export runs/{p.recipe}/checkpoint --out bundles/{m.name} --version {m.version} \\",
        f"    --precision {m.precision} --data data/packed",
        f"$ vitascope evaluate bundles/{m.name} --data data/packed --out runs/{p.recipe}/metrics.json",
        f"$ vitascope export bundles/{m.name} --metrics runs/{p.recipe}/metrics.json",
        "```",
    ]
