"""The options of `vitascope index` that say how videos are cut into clips."""

from __future__ import annotations

import argparse
from typing import Any

from index.clips.segmentation import RULES, Segmentation


def add_segmentation(parser: argparse.ArgumentParser) -> None:
    """A group of options with the defaults of ``Segmentation``."""
    group = parser.add_argument_group("how videos are cut into clips")
    group.add_argument(
        "--segment",
        choices=RULES,
        default="windows",
        help="windows of one length, one clip per shot, or sentences of the subtitles (default: windows)",
    )
    group.add_argument(
        "--clip-length",
        type=float,
        default=8.0,
        metavar="S",
        help="seconds per window, also in pauses between subtitles (default: %(default)g)",
    )
    group.add_argument(
        "--clip-overlap", type=float, default=0.0, metavar="S", help="seconds shared by neighbours (default: 0)"
    )
    group.add_argument(
        "--clip-shortest",
        type=float,
        metavar="S",
        help="seconds; what is shorter is joined (default: half a window, 1 for shots, 4 for subtitles)",
    )
    group.add_argument(
        "--clip-longest",
        type=float,
        default=16.0,
        metavar="S",
        help="seconds; longer shots and sentences are cut (default: %(default)g)",
    )
    group.add_argument(
        "--subtitles",
        metavar="LANGUAGE",
        help="which subtitles are read, as en or pt-BR (default: those without a language, else the first)",
    )


def asked_segmentation(args: argparse.Namespace) -> Segmentation:
    """What the options ask for. Raises InvalidInput for numbers that do not go together."""
    return Segmentation(
        length=args.clip_length,
        overlap=args.clip_overlap,
        shortest=args.clip_shortest,
        rule=args.segment,
        longest=args.clip_longest,
        language=args.subtitles,
    )


FIELDS = {
    "windows": ("length", "overlap", "shortest", "language"),
    "shots": ("shortest", "longest", "language"),
    "subtitles": ("shortest", "longest", "length", "language"),
}
"""By rule, what a service takes of a ``Segmentation``."""


def segmentation_json(segmentation: Segmentation) -> dict[str, Any]:
    """What a service is to be told."""
    return {"rule": segmentation.rule, **{name: getattr(segmentation, name) for name in FIELDS[segmentation.rule]}}
