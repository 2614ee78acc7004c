"""Grounding: locate the object that a phrase describes in a picture, or in the middle frame of a clip.

Shape letters: B phrases, V visual tokens, K their width, Y rows and X columns of a heat map.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from vitascope.bundle.graph_specs import BOX, HEAT_LOGITS, Array
from vitascope.bundle.parts import GroundingGrid
from vitascope.tokenizer import length_sorted_batches

if TYPE_CHECKING:
    from PIL import Image

    from vitascope.tokenizer import Tokenizer

Floats = NDArray[np.float32]
HEAT_COLOUR, BOX_COLOUR = (255, 64, 0), (0, 230, 255)
REACH = 1.5
"""Radius, in visual tokens, around the largest value of a heat map within which the centre is computed. The position of
the largest value alone would only be as precise as the grid of visual tokens."""
MAX_OPACITY = 0.6
"""Opacity of a heat map over a picture where its value is 1."""


class Box(NamedTuple):
    """Edges of a box, as fractions of the width and height of the picture, from 0 to 1."""

    left: float
    top: float
    right: float
    bottom: float

    def in_pixels(self, width: int, height: int) -> dict[str, int]:
        """Return the edges in whole pixels of a picture of this size, by name."""
        edges = zip(self._asdict().items(), (width, height) * 2, strict=True)
        return {name: round(fraction * size) for (name, fraction), size in edges}


@dataclass(frozen=True)
class Grounding:
    """The place of the object that a phrase describes.

    Attributes:
        score: Largest value of the heat map, 0 to 1; low if the object is not in the picture.
        point: x and y of the centre of the heat map around its largest value, as fractions of the width and height of
            the picture.
        box: Box around the object.
        heat_map: (Y, X) float32: probability, 0 to 1, that the centre of the object is in each cell.
    """

    score: float
    point: tuple[float, float]
    box: Box
    heat_map: Floats


class GroundingModel(Protocol):
    """The part of `Model` that ``ground`` calls."""

    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def batch_size(self) -> int: ...
    def run_graph(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]: ...


def ground(
    model: GroundingModel, grid: GroundingGrid, phrases: Sequence[str], visual_tokens: Floats
) -> list[Grounding]:
    """Locate B phrases, ``phrases[i]`` in the clip of ``visual_tokens[i]``.

    Args:
        model: Model with the graph of the task "grounding".
        grid: Description of the graph's outputs in the manifest.
        phrases: B phrases.
        visual_tokens: Visual tokens of the clips, (B, V, K).

    Raises:
        TextError: A phrase is blank or too long.
        EngineError: A run failed.
    """
    located: dict[int, Grounding] = {}
    for batch in length_sorted_batches(model.tokenizer, phrases, model.batch_size):
        outputs = model.run_graph("grounding", {**batch.inputs, "visual_tokens": visual_tokens[batch.rows]})
        heat_maps = np.exp(-np.logaddexp(0.0, -outputs[HEAT_LOGITS]))  # the sigmoid, without overflow
        for row, heat_map, box in zip(batch.rows.tolist(), heat_maps, outputs[BOX], strict=True):
            score = float(heat_map.max())
            located[row] = Grounding(score, _centre(heat_map, REACH * grid.cells), Box(*box.tolist()), heat_map)
    return [located[row] for row in range(len(phrases))]


def _centre(heat_map: Floats, radius: float) -> tuple[float, float]:
    """Return the centre of mass of a heat map (Y, X) within `radius` cells of its largest value, as fractions."""
    rows, columns = heat_map.shape
    row, column = divmod(int(heat_map.argmax()), columns)
    y, x = np.mgrid[:rows, :columns]
    mass = np.where(np.hypot(y - row, x - column) <= radius, heat_map, 0.0)
    mass /= mass.sum()
    return float((mass * (x + 0.5)).sum() / columns), float((mass * (y + 0.5)).sum() / rows)


def draw(picture: bytes, grounding: Grounding) -> Image.Image:
    """Decode a picture and draw the heat map and the box over it; return an RGB image."""
    from PIL import Image, ImageDraw

    drawn = Image.open(io.BytesIO(picture)).convert("RGB")
    heat = Image.fromarray((255 * MAX_OPACITY * grounding.heat_map).astype(np.uint8))
    drawn.paste(HEAT_COLOUR, (0, 0), heat.resize(drawn.size, Image.Resampling.BILINEAR))
    corners = grounding.box.in_pixels(drawn.width - 1, drawn.height - 1)
    ImageDraw.Draw(drawn).rectangle([*corners.values()], outline=BOX_COLOUR, width=max(2, min(drawn.size) // 120))
    return drawn
