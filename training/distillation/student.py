"""The student: HD-VILA's video encoder in another size, projected to the teacher's embedding space.

Its outputs have the shapes of the teacher's video graph, so that the teacher's text, match and answer graphs accept
them.

Shape letters: B videos, C clips, F frames, H height, W width, S tokens of the student's encoder, V visual tokens of the
teacher, K their width, E embedding dim.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.models.hd_vila import HdVila, HdVilaConfig
from training.models.hd_vila.model import VideoEncoder
from training.models.hd_vila.reduction import interpolated_embeddings
from training.models.hubness import HubnessCorrection
from training.models.pretrained import load_cnn
from vitascope.errors import InvalidInput

InitFrom = Literal["teacher", "pretrained", "scratch"]
"""Initial weights of a student: those of the teacher that have equal shapes, those of a public CNN, or random."""


@dataclass(frozen=True)
class Space:
    """Output shapes of the teacher's video graph, from its manifest."""

    vector_width: int
    visual_tokens: int
    visual_width: int


class Student(nn.Module):
    """A video encoder whose outputs have the shapes of the teacher's outputs.

    Args:
        cfg: Configuration of the encoder.
        space: Output shapes of the teacher.
    """

    def __init__(self, cfg: HdVilaConfig, space: Space) -> None:
        super().__init__()
        self.cfg, self.space = cfg, space
        self.names = [stream.name for stream in cfg.streams()]
        self.video = VideoEncoder(cfg)
        self.places = nn.Linear(cfg.visual_tokens, space.visual_tokens, bias=False)
        self.widen = nn.Linear(cfg.hybrid_width, space.visual_width)
        self.vector = nn.Linear(space.visual_width, space.vector_width)
        self.hubness = HubnessCorrection(space.vector_width, cfg.hub_references) if cfg.hub_references else None
        with torch.no_grad():
            self.places.weight.copy_(initial_projection((cfg.grid_height, cfg.grid_width), space.visual_tokens))
            if cfg.hybrid_width == space.visual_width:
                nn.init.eye_(self.widen.weight)
                nn.init.zeros_(self.widen.bias)

    def forward(self, *streams: Tensor) -> tuple[Tensor, Tensor]:
        """Encode clips.

        Args:
            streams: One array (B, C, F, H, W, 3) per stream, in the order of the configuration; pixels 0..255 of any
                dtype.

        Returns:
            L2-normalised embeddings (B, E) and visual tokens (B, V, K), both from the mean over clips.
        """
        b, c = streams[0].shape[:2]
        own = self.video({name: x.flatten(0, 1) for name, x in zip(self.names, streams, strict=True)})
        own = own.reshape(b, c, *own.shape[1:]).mean(dim=1)  # (B, S, width)
        tokens = self.widen(self.places(own.transpose(1, 2)).transpose(1, 2))
        projected = self.vector(tokens.mean(dim=1))
        embedding = F.normalize(projected, dim=-1) if self.hubness is None else self.hubness.correct_video(projected)
        return embedding, tokens


def new_student(cfg: HdVilaConfig, space: Space, init_from: InitFrom, teacher: HdVila | None = None) -> Student:
    """Build a student with its initial weights.

    Args:
        cfg: Configuration of its video encoder. `frozen_stages` is ignored for `init_from` "scratch".
        space: Output shapes of the teacher.
        init_from: Source of the initial weights.
        teacher: The teacher's model, if its weights are available.

    Raises:
        InvalidInput: `init_from` is "teacher", but there is no `teacher`.
    """
    if init_from == "scratch":  # random stages must not be frozen
        cfg = cfg.model_copy(update={"frozen_stages": 0})
    if init_from == "teacher" and teacher is not None:
        cfg = cfg.model_copy(update={"hub_references": teacher.cfg.hub_references})
    student = Student(cfg, space)
    if init_from == "pretrained":
        load_cnn(student.video, cfg.backbone)
    elif init_from == "teacher":
        if teacher is None:
            raise InvalidInput(
                "init_from: 'teacher', whose weights are not available; 'pretrained' or 'scratch' was expected"
            )
        _inherit(student, teacher)
    return student


def _inherit(student: Student, teacher: HdVila) -> None:
    """Copy the teacher's weights that have equal names and shapes; position and time embeddings are interpolated."""
    known = dict(teacher.video.state_dict())
    if student.cfg.hybrid_width == teacher.cfg.hybrid_width:
        for name, values in interpolated_embeddings(teacher.video.hybrid, teacher.cfg, student.cfg).items():
            known[f"hybrid.{name}"] = values
        student.vector.load_state_dict(teacher.video_project.state_dict())
    if student.hubness is not None and teacher.hubness is not None:
        student.hubness.load_state_dict(teacher.hubness.state_dict())
    own = student.video.state_dict()
    student.video.load_state_dict(own | {n: v for n, v in known.items() if n in own and own[n].shape == v.shape})


def initial_projection(grid: tuple[int, int], tokens: int) -> Tensor:
    """Return initial weights of the projection from the student's tokens to the teacher's.

    Args:
        grid: Rows and columns of the student's tokens.
        tokens: Number of the teacher's tokens.

    Returns:
        (tokens, rows * columns): bilinear interpolation if `tokens` can form a grid of the same aspect ratio, else
        equal weights.
    """
    rows, columns = grid
    other_rows = round(math.sqrt(tokens * rows / columns))
    other = (other_rows, tokens // max(other_rows, 1))
    if other[0] * other[1] != tokens or other[0] * columns != other[1] * rows:
        return torch.full((tokens, rows * columns), 1.0 / (rows * columns))
    unit = torch.eye(rows * columns).reshape(rows * columns, 1, rows, columns)
    shrinks = other[0] < rows
    spread = F.interpolate(unit, other, mode="bilinear", align_corners=False, antialias=shrinks)
    return spread.flatten(1).T.contiguous()
