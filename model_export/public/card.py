"""The card of a bundle that was made from a public model."""

from __future__ import annotations

from collections.abc import Sequence

from model_export.parity.checks import ParityReport
from vitascope.bundle.manifest import Manifest


def public_card(manifest: Manifest, report: ParityReport, source: str, notes: Sequence[str]) -> str:
    """Markdown: what it is, what was chosen at export, how closely it follows the original."""
    streams = "; ".join(f"{s.name}: {s.frames} of {s.width}x{s.height} pixels, {s.placement}" for s in manifest.streams)
    size = sum(entry.bytes for entry in manifest.files.values()) / 1e6
    lines = [
        f"# {manifest.name} {manifest.version}",
        "",
        f"The public model {source} ({manifest.architecture}), exported for Vitascope. Its authors' own card says what",
        "it was trained on, how well it does, and what it must not be used for; all of that holds here too.",
        "",
        "| | |",
        "|---|---|",
        f"| tasks | {', '.join(manifest.tasks)} |",
        f"| frames of a clip | {streams} |",
        f"| vector | {f'{manifest.vector_width} numbers, length 1' if manifest.vector_width else 'none'} |",
        f"| text | at most {manifest.text_length} tokens |",
        f"| temperature | {manifest.temperature:g}, bias {manifest.logit_bias:g} |",
        f"| size | {size:.1f} MB, weights stored as {manifest.precision} |",
        f"| licence | {manifest.licence} |",
        "",
        "## Chosen at export",
        "",
        *(f"- {note}" for note in notes),
        "",
        "## Fidelity",
        "",
        "Each graph was compared with the model it was made from (parity.json): on random inputs, and on real ones",
        "from the text and the picture file on, beside its library's own tokenizer and processor where it has them.",
        "",
        "| weights | graph | output | inputs | max difference | least cosine |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {o.precision} | {o.graph} | {o.output} | {o.inputs} | {o.max_difference:.2g} | {o.cosine:.6f} |"
        for o in report.outputs
    ]
    return "\n".join([*lines, ""])
