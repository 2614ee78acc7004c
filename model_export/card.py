"""Model card of an exported checkpoint: intended use, limits, training data, metrics and fidelity."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_export.assemble import markdown_table, read_json_object
from model_export.moments import moments_section
from model_export.optimize.report import read_variant, variant_section
from model_export.parity.checks import OutputCheck, ParityReport
from model_export.parity.variants import comparison_section
from model_export.sources import Source
from training import adaptation
from training.models.architectures import read_config
from vitascope.bundle.bundle import Bundle
from vitascope.bundle.describe import calibration_summary, reranking_summary
from vitascope.bundle.manifest import AudioStream, Manifest
from vitascope.bundle.parts import StrictModel
from vitascope.errors import InvalidInput

Metrics = Mapping[str, Mapping[str, float]]
"""{corpus: {metric: value}}, the output of `vitascope evaluate --out`."""
METRICS_KEY = "metrics"
"""Key of all metrics in a manifest's `extra`."""
CAPTION_SCORES_KEY = "caption_scores"
"""Key of what the matrix for CLIPScore was fitted to, see `model_export.caption_scores`, in a manifest's `extra`."""

MIXED_SUBSETS = ("(single word)", "(held-out combinations)")
"""Subsets that are reported like kinds of questions, but contain all kinds."""

HEADLINE_METRICS = (
    "t2v R@1",
    "t2v R@10",
    "v2t R@1",
    "t2v R@1 (all concepts)",
    "t2v R@10 (all concepts)",
    "tau-c similarity (dropped)",
    "tau-c match (dropped)",
    "tau-c fused (dropped)",
    "tau-c clipscore (dropped)",
    "right caption similarity",
    "right caption match",
    "right caption fused",
    "exact",
)
"""Metrics for the field `metrics` of a manifest; its `extra` and the card have all metrics."""


class Provenance(StrictModel):
    """Facts about a bundle's training, stored in the manifest's `extra`, so that the card can be written again."""

    recipe: str
    seed: int
    start: str
    step: int
    config: dict[str, Any]
    """The model's configuration, see `training.models.architectures.read_config`."""
    answers: int
    sources: list[Source]
    """Corpora, followed by pretrained weights."""
    calibration: dict[str, float]
    """Calibration errors before and after, see `model_export.calibrate`."""
    calibration_kept: bool = False
    """Whether the calibration of match and fused probabilities is that of the initial model."""


@dataclass(frozen=True)
class CardFacts:
    """Inputs of the card."""

    manifest: Manifest
    provenance: Provenance
    report: ParityReport

    @property
    def metrics(self) -> Metrics:
        """All metrics; empty before an evaluation."""
        metrics: Metrics = self.manifest.extra.get(METRICS_KEY, {})
        return metrics


def read_metrics(path: Path) -> dict[str, dict[str, float]]:
    """Read the JSON of an evaluation. Raises InvalidInput if it is not {corpus: {metric: number}}."""
    expected = "{corpus: {metric: number}} was expected, as `vitascope evaluate --out` writes it"
    content = read_json_object("metrics", path, expected)
    for corpus, numbers in content.items():
        if not isinstance(numbers, dict):
            raise InvalidInput(f"metrics: {path}: {corpus}: {expected}")
        for metric, value in numbers.items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (is_number and abs(value) <= sys.float_info.max):
                raise InvalidInput(f"metrics: {path}: {corpus}: {metric} is not a finite number; {expected}")
    return {corpus: {k: float(v) for k, v in numbers.items()} for corpus, numbers in content.items()}


def stored_metrics(bundle: Bundle) -> dict[str, dict[str, float]]:
    """Return all metrics of a bundle."""
    stored: dict[str, dict[str, float]] | None = bundle.manifest.extra.get(METRICS_KEY)
    if stored is None:
        return _read_card_metrics((bundle.folder / bundle.manifest.model_card).read_text("utf-8"))
    return stored


def _read_card_metrics(card: str) -> dict[str, dict[str, float]]:
    """Parse the metrics of a card written by `model_card`; up to version 0.3 only the card had all metrics."""
    section = re.search(r"^## Metrics\n(.*?)(?=^## |\Z)", card, re.MULTILINE | re.DOTALL)
    tables = re.findall(r"^### (.+)\n\n((?:\|.*\n)+)", section[1] if section else "", re.MULTILINE)
    rows = {corpus: re.findall(r"^\| (.+) \| (.+) \|$", table, re.MULTILINE)[2:] for corpus, table in tables}
    return {corpus: {metric: float(value) for metric, value in values} for corpus, values in rows.items()}


def headline_metrics(metrics: Metrics) -> dict[str, float]:
    """Return {"CORPUS METRIC": value} of the headline metrics, for the manifest."""
    return {f"{c} {m}": values[m] for c, values in metrics.items() for m in HEADLINE_METRICS if m in values}


def model_card(manifest: Manifest, report: ParityReport) -> str:
    """Return the Markdown card of a bundle whose manifest has a provenance."""
    provenance = Provenance.model_validate(manifest.extra["provenance"])
    facts = CardFacts(manifest, provenance, report)
    sections = (
        _overview,
        _intended_use,
        _limits,
        _training_data,
        _metrics,
        _fidelity,
        _reproduction,
        _variant,
        _moments,
    )
    return "\n".join(line for section in sections if (lines := section(facts)) for line in [*lines, ""])


def _moments(f: CardFacts) -> list[str]:
    return moments_section(f.manifest)


def describe_streams(manifest: Manifest) -> str:
    """Return the frame streams of a clip in one line."""
    return "; ".join(
        f"{s.name}: {s.frames} of {s.width}x{s.height} pixels, {s.placement}"
        + (f", of video track {s.track}" if s.track else "")
        for s in manifest.streams
    )


def describe_audio(stream: AudioStream) -> str:
    """Return the audio stream in one line."""
    return f"{stream.sample_rate} Hz, windows of {stream.seconds:g} s"


def describe_size(manifest: Manifest) -> str:
    """Return the size of a bundle and the precision of its weights."""
    size = sum(entry.bytes for entry in manifest.files.values()) / 1e6
    return f"{size:.1f} MB, weights stored as {manifest.precision}"


def parity_table(checks: Sequence[OutputCheck]) -> list[str]:
    """Return the comparison of graphs with the torch model, as Markdown lines."""
    rows = [[o.precision, o.graph, o.output, o.inputs, f"{o.max_difference:.2g}", f"{o.cosine:.6f}"] for o in checks]
    return markdown_table(["weights", "graph", "output", "inputs", "max difference", "min cosine"], rows)


def _variant(f: CardFacts) -> list[str]:
    variant = read_variant(f.manifest)
    return [] if variant is None else variant_section(variant)


ARCHITECTURES = {
    "hd-vila": (
        "HD-VILA, size {size} (Xue et al., CVPR 2022): a video-language model that encodes a clip as one",
        "high-resolution frame and low-resolution neighbors, and a text Transformer whose last layers fuse the",
        "sentence and the clip.",
    ),
    "soho": (
        "SOHO, size {size} (Huang et al., CVPR 2021): an image-language model that encodes the middle frame of a clip,",
        "quantizes it with a visual dictionary, and fuses sentence and frame in one Transformer.",
    ),
    "visual-parsing": (
        "Visual Parsing, size {size} (Xue et al., NeurIPS 2021): an image-language model that encodes the middle frame",
        "of a clip by self-attention alone, and fuses sentence and frame in one Transformer.",
    ),
}
"""Description of each architecture."""


def _overview(f: CardFacts) -> list[str]:
    m, config = f.manifest, read_config(f.provenance.config)
    fit = m.extra.get(CAPTION_SCORES_KEY)
    rows = [
        ["tasks", ", ".join(m.tasks)],
        ["frames of a clip", describe_streams(m)],
        *([["still pictures", f"whole, and the middle {m.mirrored_view:.0%} mirrored"]] if m.mirrored_view else []),
        *([["sound of a clip", describe_audio(m.audio)]] if m.audio else []),
        ["embedding", f"{m.vector_width} dimensions, length 1"],
        ["visual tokens", f"{m.visual_tokens} of {m.visual_width} dimensions"],
        ["text", f"at most {m.text_length} tokens, English"],
        ["answers", f"{f.provenance.answers or 'none'}"],
        *([["captions", f"at most {m.captions.max_tokens} tokens, English"]] if m.captions else []),
        *([["CLIPScore", f"by a matrix that was fitted to {fit['fitted_on']}"]] if fit else []),
        ["size", describe_size(m)],
        ["licence", m.licence],
    ]
    return [
        f"# {m.name} {m.version}",
        "",
        *(line.format(size=config.size) for line in ARCHITECTURES[config.system]),
        "",
        *markdown_table(["", ""], rows),
    ]


def _intended_use(f: CardFacts) -> list[str]:
    uses = ["- Finding clips in a collection by an English sentence."]
    if "matching" in f.manifest.tasks:
        uses.append("- Scoring how well captions describe a video or image, and reranking search results.")
    if "answering" in f.manifest.tasks:
        uses.append(f"- Short questions about visible content, answered from a list of {f.provenance.answers} answers.")
    if "captioning" in f.manifest.tasks:
        uses.append("- Drafts of captions of videos and images, for a person to check.")
    if "grounding" in f.manifest.tasks:
        uses.append("- Showing where in a picture, or in the middle frame of a clip, is what a phrase names.")
    if "entailment" in f.manifest.tasks:
        uses.append("- Telling whether a clip entails or contradicts a sentence, or is neutral about it.")
    return [
        "## Intended use",
        "",
        *uses,
        "- Trying out, testing and teaching the whole path from video to answers on a machine without a GPU.",
        "",
        "## Out of scope",
        "",
        "- Decisions about people: recognition, judgment or monitoring. It was neither made nor tested for them.",
        "- Safety, medical, legal or security decisions, or any use where a wrong answer causes harm.",
        "- Moderation: it was not trained on harmful material and cannot be relied on to find any.",
        f"- Uses beyond its licence: {f.manifest.licence}",
    ]


def _limits(f: CardFacts) -> list[str]:
    count = sum(stream.frames for stream in f.manifest.streams)
    frames = "one frame" if count == 1 else f"{count} frames"
    lines = [
        "## Limitations",
        "",
        "- Language: English only. It knows little of words that are rare in its data.",
        f"- Time: it sees {frames} of a clip of any length; what happens in between is lost.",
        f"- It {'' if f.manifest.audio else 'does not use sound, and '}reads no writing beyond single large digits.",
        "- Domain: the data below. Other material, such as screens, maps, medical or aerial images, still gets a",
        "  score, which means little.",
        "- Its data is small and biased, such as in which people and rooms are shown and how they are described.",
        "  Expect the bias in search results.",
    ]
    if f.provenance.answers:
        lines += [
            "- A question whose answer is not on its list is always answered wrongly. Counting, and left and right",
            "  in photographs, are mostly guesses.",
        ]
    if f.manifest.captions:
        lines += [
            "- Captions name what is likely in its data, also where the clip does not show it. Their probabilities are",
            "  not calibrated.",
        ]
    if f.manifest.grounding:
        lines += ["- A phrase always has a box; its score, which is not calibrated, is low where nothing fits."]
    if "entailment" in f.manifest.tasks:
        lines += ["- Classes of sentences are learned from the data below; of other material they mean little."]
    if weakest_kinds := weakest(f.metrics):
        lines += ["- Lowest accuracies, percent (chance is 50 for captions):"]
        lines += [f"  - {corpus}, {metric}: {value:.1f}" for corpus, metric, value in weakest_kinds]
    return lines


def weakest(metrics: Metrics) -> list[tuple[str, str, float]]:
    """Return the six kinds of questions and of wrong captions with the lowest accuracy: (corpus, metric, percent)."""
    kinds = [
        (corpus, metric, value)
        for corpus, values in metrics.items()
        for metric, value in values.items()
        if metric.startswith(("exact (", "right caption fused (")) and not metric.endswith(("]", *MIXED_SUBSETS))
    ]
    return sorted(kinds, key=lambda row: row[2])[:6]


def _training_data(f: CardFacts) -> list[str]:
    p = f.provenance
    return [
        "## Training data",
        "",
        "Weights were trained on training splits only. Validation splits were used to select settings and calibrate.",
        "",
        *markdown_table(["", "content", "source", "terms"], ([s.name, s.what, s.origin, s.terms] for s in p.sources)),
        "",
        f"Recipe `{p.recipe}`, seed {p.seed}, {p.step} steps, start: {p.start}. NOTICE.md repeats the terms.",
    ]


def _metrics(f: CardFacts) -> list[str]:
    if not f.metrics:
        return ["## Metrics", "", "Nothing was measured when this card was written."]
    lines = [
        "## Metrics",
        "",
        "Percent, or Kendall's tau-c times 100; MdR and MnR are ranks, ECE is a fraction. In parentheses: the subset;",
        "in brackets: with a frame stream made uninformative.",
    ]
    for corpus, values in f.metrics.items():
        rows = ([metric, f"{value:.4g}"] for metric, value in values.items())
        lines += ["", f"### {corpus}", "", *markdown_table(["metric", "value"], rows)]
    return lines


def _fidelity(f: CardFacts) -> list[str]:
    report, errors = f.report, f.provenance.calibration
    if report.beside is not None:
        return comparison_section(report.beside, [*calibration_summary(f.manifest), reranking_summary(f.manifest)])
    lines = [
        "## Fidelity and calibration",
        "",
        "Each graph was compared with the trained model before the bundle was written (parity.json):",
        "",
        *parity_table(report.outputs),
    ]
    if report.recall:
        rows = ([c.precision, c.corpus, c.direction, f"{c.torch:.2f}", f"{c.runtime:.2f}"] for c in report.recall)
        lines += ["", *markdown_table(["weights", "corpus", "direction", "R@1 torch", "R@1 bundle"], rows)]
    for kind in ("match", "answer"):
        if f"{kind} error after" in errors:
            before, after = errors[f"{kind} error before"], errors[f"{kind} error after"]
            lines += [
                "",
                f"Expected calibration error of {kind} probabilities on validation data: {before:.3f} as trained,",
                f"{after:.3f} calibrated.",
            ]
    if f.provenance.calibration_kept:
        lines += [
            "",
            "The calibration of match and fused probabilities is that of the initial model: there was too little",
            "validation data at export to fit it.",
        ]
    elif not errors:
        lines += [
            "",
            "Probabilities are not calibrated: no or too little validation data was available at export.",
        ]
    return [*lines, "", f"{reranking_summary(f.manifest)}."]


def _reproduction(f: CardFacts) -> list[str]:
    m, p, variant = f.manifest, f.provenance, read_variant(f.manifest)
    if variant is not None:
        return [
            "## Reproduction",
            "",
            f"The card of {variant.name} describes that bundle. To make this one, on a machine like the one below:",
            "",
            "```console",
            f"$ vitascope optimize BUNDLE --budget recall={variant.recall:g} --data data/packed --out bundles/{m.name}",
            "```",
        ]
    if p.recipe == adaptation.NAME:
        return [
            "## Reproduction",
            "",
            "```console",
            f"$ vitascope adapt FOLDER --start-from START --steps {p.step} --seed {p.seed} --out bundles/{m.name}",
            "```",
            "",
            "with the same videos, subtitles and initial model, which the bundle does not contain.",
        ]
    return [
        "## Reproduction",
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
