"""SOHO (Huang et al., CVPR 2021) as its authors released it, on the parts that ``training.models.soho`` trains.

It has no vectors: a text is read together with a picture, to say whether they belong together, or what the answer is.

Shape letters: B videos or texts, C clips, N = B * C, H height, W width, V visual tokens, D width.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from model_export.graphs import GraphSpec, video_spec
from model_export.public.model import PublicModel
from model_export.public.pictures import STREAM_NAME
from model_export.public.released.answers import answers_of
from model_export.public.released.fused import FUSED_AXES, FusedHead
from model_export.public.released.original import ALONE, TorchAnswers, TorchMatch
from model_export.public.released.shapes import count_of, heads_of, resnet_of, resnet_rules, size_of
from model_export.public.released.table import Layout, load_released
from model_export.public.released.weights import Weights
from model_export.public.released.words import open_words
from training.models.config import IMAGENET
from training.models.fusion import text_transformer
from training.models.soho.config import SohoConfig, base
from training.models.soho.model import SineEmbeddings
from training.models.soho.video import VideoEncoder
from vitascope.bundle.manifest import FrameStream
from vitascope.errors import InvalidInput

PICTURE = (563, 1000)
"""Height and width that a frame of 16:9 is brought to."""
_PADDED = 32
"""Pixels: sides are filled up to whole multiples of it, below and at the right."""
TEXT_LENGTH = 16
"""Tokens that the authors cut at."""
_MATCH, _ANSWER = "head.match_class.weight", "head.vqa.3.weight"
LAYOUT = Layout(
    rules=[
        *resnet_rules("video.cnn", "backbone"),
        ("video.neck.0", "neck.conv.conv"),
        ("video.neck.1", "neck.conv.bn"),
        ("video.dictionary.entries", "neck.vq.embed"),
        ("video.dictionary.sizes", "neck.vq.cluster_size"),
        ("video.dictionary.sums", "neck.vq.embed_avg"),
        ("video.entry", "neck.pos_line"),
        ("video.gate.0", "neck.gate_fc.conv"),
        ("video.gate.1", "neck.gate_fc.bn"),
        ("place.norm", "neck.ln"),
        ("text.bert", "language.bert"),
        ("head.scores", "head.match_class"),
        ("head.0", "head.vqa.0"),
        ("head.2", "head.vqa.3"),
    ],
    unread=[
        ("neck.vq.cluster_sum", "Counts of the visual dictionary, which nothing reads after training."),
        ("neck.mask_emb", "It stands for masked visual tokens, in training alone."),
        ("mask_l_fc", "It tells masked words, in training alone."),
    ],
)

FRAMES = "A clip is its middle frame; visual tokens of several clips are averaged. The model knows pictures only."
PICTURES = (
    "Frames are stretched to {width}x{height} pixels, what the authors bring a frame of 16:9 to, and filled up to "
    "{wide}x{high}; they keep other shapes as they are, at most 1000x600. They resize bilinearly "
    "from the nearest pixels, here the decoder does, bicubically."
)
LENGTH = "Texts are cut at {length} tokens, as the authors do."
NO_VECTORS = (
    "The model has no vectors of texts, so no text finds a video by it. The vector of a video is the mean of its "
    "visual tokens, made unit length; the model itself has none."
)
MATCHING = (
    "A match probability is that of the model's own matching head. It has no temperature; 1 is stated in its place."
)
ANSWERING = (
    "Answer probabilities are a softmax over logits that were trained one answer by one; they rank. The model has no "
    "temperature; 1 is stated in its place."
)
NO_DICTIONARY = "The file has no visual dictionary, as the authors' fine-tuning for questions leaves it out."


class Reader(nn.Module):
    """A picture's visual tokens beside the words of a text in one Transformer, and a head on its first state."""

    def __init__(self, cfg: SohoConfig, head: nn.Module) -> None:
        super().__init__()
        self.video = VideoEncoder(cfg)
        self.place = SineEmbeddings(
            width=cfg.text_width, rows=cfg.grid_height, columns=cfg.grid_width, dropout=cfg.dropout
        )
        self.text = text_transformer(cfg)
        self.head = head


class MatchHead(nn.Module):
    """First states (B, D) -> (B,): how much more likely, as a logit, that text and picture belong together."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scores = nn.Linear(width, 2, bias=False)

    def forward(self, first: Tensor) -> Tensor:
        scores = self.scores(first)
        difference: Tensor = scores[:, 1] - scores[:, 0]
        return difference


class PictureGraph(nn.Module):
    """A stream (B, C, 1, H, W, 3) uint8 -> a vector (B, D) that texts have no like of, and visual_tokens (B, V, D)."""

    mean: Tensor

    def __init__(self, video: VideoEncoder) -> None:
        super().__init__()
        self.video = video
        # What normalization makes nothing of: the authors fill up after it, with zeros.
        self.register_buffer("mean", torch.tensor(IMAGENET["image_mean"]), persistent=False)

    def forward(self, *streams: Tensor) -> tuple[Tensor, Tensor]:
        (frames,) = streams
        batch, clips = frames.shape[:2]
        filled = self._filled(frames.flatten(0, 1).float())
        tokens = self.video({"high": filled})
        tokens = tokens.reshape(batch, clips, *tokens.shape[1:]).mean(dim=1)
        return normalize(tokens.mean(dim=1), dim=-1), tokens

    def _filled(self, frames: Tensor) -> Tensor:
        """(N, 1, H, W, 3) -> (N, 1, H', W', 3), sides whole multiples."""
        count, one, height, width, _ = frames.shape
        if below := padded(height) - height:
            frames = torch.cat([frames, self.mean.expand(count, one, below, width, 3)], dim=2)
        if beside := padded(width) - width:
            frames = torch.cat([frames, self.mean.expand(count, one, padded(height), beside, 3)], dim=3)
        return frames


def padded(side: int) -> int:
    return -(-side // _PADDED) * _PADDED


def load_soho(folder: Path, weights: Weights, picture: tuple[int, int] = PICTURE) -> PublicModel:
    """SOHO of a released file, pre-trained (it matches) or fine-tuned for questions. Raises InvalidInput."""
    matches, answers = _MATCH in weights, _ANSWER in weights
    if matches == answers:
        found = "both" if matches else "neither"
        raise InvalidInput(f"model: {folder} has {found} of {_MATCH} and {_ANSWER}; one was expected")
    cfg, guesses = _configuration(folder, weights, picture)
    words = open_words(folder, "bert", cfg.vocabulary)
    named = answers_of(folder, size_of(folder, weights, _ANSWER, 0)) if answers else []
    model = Reader(cfg, _answer_head(folder, weights, cfg) if answers else MatchHead(cfg.text_width))
    unread = load_released(folder, model, weights, LAYOUT)
    video, head = PictureGraph(model.video), FusedHead(model.text, model.place, model.head)
    height, width = picture
    stream = FrameStream(name=STREAM_NAME, frames=1, height=height, width=width, placement="middle")
    reads = (
        GraphSpec("answer", head, FUSED_AXES, ("answer_logits",))
        if answers
        else GraphSpec("match", head, FUSED_AXES, ("match_logit",))
    )
    notes = [
        *guesses,
        FRAMES,
        *([] if cfg.entries else [NO_DICTIONARY]),
        NO_VECTORS,
        ANSWERING if answers else MATCHING,
    ]
    return PublicModel(
        architecture="soho",
        tasks=["answering"] if answers else ["matching"],
        specs=[
            video_spec(video, [stream]),
            reads,
        ],
        original=(TorchAnswers if answers else TorchMatch)(video, [stream], words.library, cfg.text_length, head),
        frame_streams=[stream],
        vocabulary=cfg.vocabulary,
        text_length=cfg.text_length,
        vector_width=cfg.visual_width,
        visual_tokens=cfg.visual_tokens,
        visual_width=cfg.visual_width,
        temperature=1.0,
        answers=named,
        tokenizer_json=words.written,
        notes=[*notes, *words.notes, *unread, ALONE],
        versions={"transformers": version("transformers"), "timm": version("timm")},
        config={"layout": "soho"} | cfg.model_dump(mode="json"),
    )


def _answer_head(folder: Path, weights: Weights, cfg: SohoConfig) -> nn.Module:
    hidden, answers = (size_of(folder, weights, name, 0) for name in ("head.vqa.0.weight", _ANSWER))
    return nn.Sequential(nn.Linear(cfg.text_width, hidden), nn.ReLU(), nn.Linear(hidden, answers))


def _configuration(folder: Path, weights: Weights, picture: tuple[int, int]) -> tuple[SohoConfig, list[str]]:
    """The published configuration with the numbers that the shapes tell, and what they do not tell."""

    def size(name: str, axis: int = 0) -> int:
        return size_of(folder, weights, name, axis)

    width = size("language.bert.embeddings.word_embeddings.weight", 1)
    heads, of_text = heads_of(folder, "Transformer", width)
    high, wide = (padded(side) for side in picture)
    numbers: dict[str, Any] = {
        "size": "released",
        "backbone": resnet_of(folder, weights, "backbone"),
        "image_height": high,
        "image_width": wide,
        "grid_height": high // _PADDED // 2,
        "grid_width": wide // _PADDED // 2,
        "entries": size("neck.vq.embed") if any(name.startswith("neck.vq.") for name in weights) else 0,
        "text_width": width,
        "text_heads": heads,
        "text_layers": 0,
        "fused_layers": count_of(weights, "language.bert.encoder.layer"),
        "text_intermediate": size("language.bert.encoder.layer.0.intermediate.dense.weight"),
        "vocabulary": size("language.bert.embeddings.word_embeddings.weight"),
        "max_positions": size("language.bert.embeddings.position_embeddings.weight"),
        "text_length": TEXT_LENGTH,
        "vector_width": width,
    }
    cfg = SohoConfig.model_validate(base().model_dump() | numbers)
    sizes = PICTURES.format(height=picture[0], width=picture[1], high=high, wide=wide)
    return cfg, [of_text, sizes, LENGTH.format(length=TEXT_LENGTH)]
