"""Batches as a pure function of (recipe, step): what makes resuming after a kill exact.

Shape letters: B videos, C clips, F frames, H W pixels, L text tokens, P captions per video, Q questions per video,
K objects, A attributes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.answers import whole_answer
from training.data.clip_choice import clips_taken, drawn_clips
from training.data.example import Example
from training.data.packed import Packed, open_packed
from training.data.scenes.objects import object_targets
from training.objectives.masking import IGNORED
from training.recipe import Source, Stage
from vitascope.bundle.manifest import FrameStream
from vitascope.errors import InvalidInput
from vitascope.tokenizer import Tokenizer

NEED_CAPTIONS = {"contrastive", "match", "masked_words", "masked_visual"}
RANK_SEED = 100_003
"""What a process's rank adds to a seed, so that processes alter their pictures each in its own way."""


@dataclass(frozen=True)
class Tokens:
    """Token ids and mask, both (B, L) int64."""

    ids: Tensor
    mask: Tensor

    def to(self, device: torch.device) -> Tokens:
        return Tokens(self.ids.to(device), self.mask.to(device))


@dataclass(frozen=True)
class Batch:
    """One step's input. `times`: which learned times the frames stand for (stills use only two of them)."""

    source: Source
    streams: dict[str, Tensor] | None
    """By name (B, C, F, H, W, 3) uint8 or float, 0..255."""
    visual: Tensor | None
    """(B, V, W) float32 visual tokens of frozen encoders, in place of the streams."""
    times: Tensor | None
    groups: Tensor  # (B,) int64
    rows: np.ndarray  # (B,) positions in the packed corpus
    captions: Tokens | None
    """(B * P, L), P in a row about each video."""
    wrong: Tokens | None
    """(B * P, L): beside each caption a minimally wrong one, where the corpus has them."""
    questions: Tokens | None  # (B * Q, L)
    answers: Tensor | None  # (B * Q,) int64, -100 where the vocabulary lacks it
    places: Tensor | None = None
    """(B, K, 2) float32: where the objects are, shares of width and height (`scenes.objects`)."""
    classes: Tensor | None = None
    """(B, K, A) int64: what they are, -100 where there is none."""

    def to(self, device: torch.device) -> Batch:
        """The same batch on the device that computes."""
        held = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {n: x.to(device) for n, x in held.items() if isinstance(x, Tensor | Tokens)}
        if self.streams is not None:
            moved["streams"] = {name: frames.to(device) for name, frames in self.streams.items()}
        return replace(self, **moved)


def schedule(stage: Stage, seed: int) -> np.ndarray:
    """(steps,) index of the source of each step, drawn by weight."""
    weights = np.array([source.weight for source in stage.sources])
    return np.random.default_rng([seed, 17]).choice(len(weights), size=stage.steps, p=weights / weights.sum())


class Batches:
    """Batches of one stage by step number. Two objects built alike give equal batches.

    Of `world` processes each takes, at every step, its own batch of the same source.
    """

    def __init__(
        self,
        stage: Stage,
        data: Path,
        tokenizer: Tokenizer,
        vocabulary: list[str],
        seed: int,
        streams: Sequence[FrameStream],
        *,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.stage, self.seed, self.streams = stage, seed, streams
        self.rank, self.world = rank, world
        self.tokenizer = tokenizer
        self.answer_ids = {answer: i for i, answer in enumerate(vocabulary)}
        self.packed = [open_packed(data / source.corpus / source.split) for source in stage.sources]
        for packed in self.packed:
            if mismatches := packed.stream_mismatches(streams):
                raise InvalidInput(f"streams: {packed.folder}: {'; '.join(mismatches)}")
        self.visual: list[np.ndarray | None] = [None] * len(stage.sources)
        """Per source the visual tokens (views, N, V, W) of all its videos, where they are known already."""
        self.clips = [_clips(packed, source) for packed, source in zip(self.packed, stage.sources, strict=True)]
        self.order = schedule(stage, seed)
        self.groups = [_group_ids(packed, source) for packed, source in zip(self.packed, stage.sources, strict=True)]
        self.objects = [
            object_targets([e.attributes["scene"] for e in packed.examples]) if "objects" in source.objectives else None
            for packed, source in zip(self.packed, stage.sources, strict=True)
        ]
        self.usable = [_usable(p, s) for p, s in zip(self.packed, stage.sources, strict=True)]

    def __call__(self, step: int) -> Batch:
        """The batch of this step (0-based, inside the stage)."""
        which = int(self.order[step])
        source, packed = self.stage.sources[which], self.packed[which]
        earlier = int((self.order[:step] == which).sum())
        rows = self._rows(which, earlier)
        rng = np.random.default_rng([self.seed + RANK_SEED * self.rank, which, step])
        streams = times = visual = None
        known = self.visual[which]
        if known is not None:
            view = rng.integers(len(known), size=len(rows))
            visual = torch.from_numpy(known[view, rows].astype(np.float32))
        else:
            clips = drawn_clips(rng, len(rows), packed.clips, self.clips[which])
            streams, times = self._pictures(packed, rows, clips, source, rng)
        examples = [packed.examples[row] for row in rows]
        captions = wrong = questions = answers = None
        if NEED_CAPTIONS & set(source.objectives):
            pairs = [pair for e in examples for pair in _pick_pairs(e, source, rng)]
            captions = self._tokens([right for right, _ in pairs])
            if all(e.negatives for e in examples):
                wrong = self._tokens([str(false) for _, false in pairs])
        if "answer" in source.objectives:
            asked = [q for e in examples for q in _pick_questions(e.questions, source.questions, rng)]
            questions = self._tokens([q.question for q in asked])
            answers = torch.tensor([self.answer_ids.get(whole_answer(q), IGNORED) for q in asked])
        groups = torch.from_numpy(self.groups[which][rows])
        places = classes = None
        if (targets := self.objects[which]) is not None:
            places, classes = (torch.from_numpy(target[rows]) for target in targets)
        return Batch(source, streams, visual, times, groups, rows, captions, wrong, questions, answers, places, classes)

    def _pictures(
        self, packed: Packed, rows: np.ndarray, clips: np.ndarray, source: Source, rng: np.random.Generator
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        streams = {s.name: torch.from_numpy(packed.frames(s.name)[rows[:, None], clips]) for s in self.streams}
        times = None
        total = sum(s.frames for s in self.streams)
        if total > 2 and all(frames.shape[2] == 1 for frames in streams.values()):
            # A still needs one neighbour only: its learned time is drawn, so that every time is trained.
            neighbour = int(rng.choice([t for t in range(total) if t != total // 2]))
            times = torch.tensor([total // 2, neighbour])
        return augment(streams, source, rng), times

    def _rows(self, which: int, earlier: int) -> np.ndarray:
        """Rows of the source's batch number `earlier`: epochs of seeded permutations, cut into whole batches."""
        usable, batch = self.usable[which], self.stage.sources[which].batch
        per_epoch = max(len(usable) // (batch * self.world), 1)
        epoch, place = divmod(earlier, per_epoch)
        order = np.random.default_rng([self.seed, which, 31, epoch]).permutation(usable)
        first = (place * self.world + self.rank) * batch
        return np.sort(order[first : first + batch])

    def _tokens(self, texts: list[str]) -> Tokens:
        ids, mask = self.tokenizer.encode(texts)
        return Tokens(torch.from_numpy(ids), torch.from_numpy(mask))


def _group_ids(packed: Packed, source: Source) -> np.ndarray:
    if source.group_by is None:
        return np.arange(len(packed.examples))
    values = [e.key if source.group_by == "key" else str(e.attributes[source.group_by]) for e in packed.examples]
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def _clips(packed: Packed, source: Source) -> int:
    """Clips of each video at a step. Raises InvalidInput where they are not packed, or an objective cannot use them."""
    taken = clips_taken(packed, source.clips)
    if "masked_visual" in source.objectives and taken > 1:
        raise InvalidInput(
            f"objectives: 'masked_visual' of {source.corpus!r} with {taken} clips, whose tokens cannot be averaged "
            "before they are told; clips = 1 was expected"
        )
    if "objects" in source.objectives and packed.clips > 1:
        raise InvalidInput(
            f"objectives: 'objects' of {source.corpus!r}, packed as {packed.clips} clips; where the objects are is "
            "known of whole videos, a corpus packed as one clip was expected"
        )
    return taken


def _usable(packed: Packed, source: Source) -> np.ndarray:
    asks = "answer" in source.objectives
    says = bool(NEED_CAPTIONS & set(source.objectives))
    rows = [
        i
        for i, e in enumerate(packed.examples[: source.limit])
        if (not asks or e.questions) and (not says or e.captions)
    ]
    if not rows:
        raise ValueError(
            f"corpus: {source.corpus}/{source.split} has no example usable for {sorted(source.objectives)}"
        )
    return np.array(rows)


RANDOM_CAPTION = 0.3
"""Share of pairs whose right caption is any of the video's, not the one that the wrong caption was made from."""


def _pick_pairs(example: Example, source: Source, rng: np.random.Generator) -> list[tuple[str, str | None]]:
    """`pairs` right captions, each with a minimally wrong one, repeating only where there are fewer."""
    captions = example.captions[: 1 if source.captions == "first" else None]
    minimal = [n for n in example.negatives if n.grade == 1] or list(example.negatives)
    order, others = rng.permutation(len(captions)), rng.permutation(len(minimal))
    chosen: list[tuple[str, str | None]] = []
    for i in range(source.pairs):
        right, wrong = captions[order[i % len(order)]], None
        if minimal:
            negative = minimal[others[i % len(others)]]
            wrong = negative.caption
            if negative.of < len(captions) and rng.random() >= RANDOM_CAPTION:
                right = captions[negative.of]
        chosen.append((right, wrong))
    return chosen


def _pick_questions(questions: tuple, count: int, rng: np.random.Generator) -> list:  # type: ignore[type-arg]
    """`count` different questions, repeating only where there are fewer."""
    order = rng.permutation(len(questions))
    return [questions[order[i % len(order)]] for i in range(count)]


CELLS = {"high": 32, "low": 16}
"""Pixels of a stream that one cell of the grid of visual tokens is made of, at least."""


def augment(streams: Mapping[str, Tensor], source: Source, rng: np.random.Generator) -> dict[str, Tensor]:
    """Random window (one per batch), mirror, colour mixing, brightness and contrast (per video), as the source asks.

    streams: (B, C, F, H, W, 3) uint8 by name. The same window and mirroring go to all. Returns the same
    shapes, float 0..255 where anything was changed.
    """
    out = dict(streams)
    if source.crop < 1.0 or source.scale < 1.0 or source.widen > 1.0:
        keep = rng.uniform(source.crop, source.widen, size=2)
        offset = rng.uniform(np.minimum(1.0 - keep, 0.0), np.maximum(1.0 - keep, 0.0))
        out = {name: _crop(x, keep, offset, source.scale, CELLS[name]) for name, x in out.items()}
    b = len(next(iter(out.values())))
    if source.flip:
        mirrored = torch.from_numpy(rng.random(b) < 0.5)
        for x in out.values():
            x[mirrored] = x[mirrored].flip(-2)
    if source.tint:
        share = rng.uniform(0, source.tint, (b, 1, 1))
        rows = share * rng.dirichlet((1.0, 1.0, 1.0), size=(b, 3)) + (1.0 - share) * np.eye(3)  # each sums to 1
        mixing = torch.from_numpy(rows.astype(np.float32))
        out = {name: torch.einsum("bcfhwi,boi->bcfhwo", x.float(), mixing) for name, x in out.items()}
    if source.jitter:
        shape = (b, 1, 1, 1, 1, 1)
        gain = torch.from_numpy(rng.uniform(1 - source.jitter, 1 + source.jitter, shape).astype(np.float32))
        shift = torch.from_numpy(rng.uniform(-64 * source.jitter, 64 * source.jitter, shape).astype(np.float32))
        out = {name: (x.float() * gain + shift).clamp_(0, 255) for name, x in out.items()}
    return out


def _crop(frames: Tensor, keep: np.ndarray, offset: np.ndarray, scale: float, cell: int) -> Tensor:
    """Cut a window (shares `keep` of the sides, at `offset`) and resize it to `scale` of the sides, whole cells.

    Where the window leaves the frame, the frame's edge goes on.
    """
    b, c, f, h, w, _ = frames.shape
    top, left = int(offset[0] * h), int(offset[1] * w)
    bottom, right = top + max(int(keep[0] * h), 8), left + max(int(keep[1] * w), 8)
    size = (max(round(h * scale / cell), 1) * cell, max(round(w * scale / cell), 1) * cell)
    whole = frames.flatten(0, 2).permute(0, 3, 1, 2).float()
    beyond = (max(-left, 0), max(right - w, 0), max(-top, 0), max(bottom - h, 0))
    if any(beyond):
        whole = F.pad(whole, beyond, mode="replicate")
    top, bottom, left, right = top + beyond[2], bottom + beyond[2], left + beyond[0], right + beyond[0]
    window = whole[:, :, top:bottom, left:right]
    if window.shape[2:] != size:
        shrinks = size[0] < window.shape[2] or size[1] < window.shape[3]
        window = F.interpolate(window, size, mode="bilinear", align_corners=False, antialias=shrinks)
    return window.permute(0, 2, 3, 1).reshape(b, c, f, *size, 3)
