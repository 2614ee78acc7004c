"""The small public models as a user of their own libraries runs them, written against the libraries' documented calls.

Shape letters: T texts, P clips, D vector width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import normalize
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

from tests.model_export.public_models import SIDE, OpenClip

Clips = Sequence[Sequence[Image.Image]]


class Given(NamedTuple):
    """texts (T, D) and clips (P, D), of length 1; logits (T, P) by which the library ranks pairs."""

    texts: np.ndarray
    clips: np.ndarray
    logits: np.ndarray


def library_gives(family: str, source: Path, texts: Sequence[str], clips: Clips) -> Given:
    """What the library gives for texts and for clips of as many frames as the bundle looks at."""
    with torch.no_grad():
        run = {"xclip": _xclip, "blip": _blip, "open_clip": _open_clip}.get(family, _towers)
        said, seen, logits = run(source, list(texts), clips)
    return Given(normalize(said, dim=-1).numpy(), normalize(seen, dim=-1).numpy(), logits.numpy())


def _towers(source: Path, texts: list[str], clips: Clips) -> tuple[Tensor, Tensor, Tensor]:
    from transformers import AutoModel, AutoProcessor

    model, processor = AutoModel.from_pretrained(source).eval(), AutoProcessor.from_pretrained(source)
    fixed = model.config.model_type == "siglip"
    encoded = processor(text=texts, return_tensors="pt", padding="max_length" if fixed else True, truncation=True)
    said = normalize(model.get_text_features(**encoded).pooler_output, dim=-1)
    rows = []
    for frames in clips:
        pixels = processor(images=list(frames), return_tensors="pt")["pixel_values"]
        rows.append(normalize(model.get_image_features(pixel_values=pixels).pooler_output, dim=-1).mean(dim=0))
    seen = normalize(torch.stack(rows), dim=-1)
    bias = model.logit_bias if fixed else 0.0
    return said, seen, model.logit_scale.exp() * said @ seen.T + bias


def _xclip(source: Path, texts: list[str], clips: Clips) -> tuple[Tensor, Tensor, Tensor]:
    from transformers import XCLIPModel, XCLIPProcessor

    model, processor = XCLIPModel.from_pretrained(source).eval(), XCLIPProcessor.from_pretrained(source)
    encoded = processor.tokenizer(texts, return_tensors="pt", padding=True, truncation=True)
    pixels = torch.cat([processor.image_processor(list(f), return_tensors="pt")["pixel_values"] for f in clips])
    said = model.get_text_features(**encoded).pooler_output
    seen = model.get_video_features(pixel_values=pixels).pooler_output
    return said, seen, model(**encoded, pixel_values=pixels).logits_per_text


def _blip(source: Path, texts: list[str], clips: Clips) -> tuple[Tensor, Tensor, Tensor]:
    from transformers import AutoProcessor, BlipForImageTextRetrieval

    model = BlipForImageTextRetrieval.from_pretrained(source).eval()
    processor = AutoProcessor.from_pretrained(source)
    encoded = processor(text=texts, return_tensors="pt", padding=True, truncation=True)
    encoded = {name: encoded[name] for name in ("input_ids", "attention_mask")}
    said = normalize(model.text_proj(model.text_encoder(**encoded).last_hidden_state[:, 0]), dim=-1)
    seen, logits = [], []
    for frames in clips:
        pixels = processor(images=list(frames), return_tensors="pt")["pixel_values"]
        states = model.vision_model(pixel_values=pixels).last_hidden_state
        seen.append(normalize(model.vision_proj(states[:, 0]), dim=-1).mean(dim=0))
        middle = pixels[len(frames) // 2].expand(len(texts), -1, -1, -1)
        matched = model(**encoded, pixel_values=middle, use_itm_head=True).itm_score.softmax(dim=-1)[:, 1]
        logits.append(torch.logit(matched))
    return said, torch.stack(seen), torch.stack(logits, dim=1)


def _open_clip(source: Path, texts: list[str], clips: Clips) -> tuple[Tensor, Tensor, Tensor]:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(source)
    model = OpenClip(len(tokenizer)).eval()
    model.load_state_dict(load_file(source / "open_clip_model.safetensors"))
    ids = tokenizer(texts, return_tensors="pt", padding="max_length", truncation=True)["input_ids"]
    said = normalize(model.encode_text(ids), dim=-1)
    size = Resize(SIDE, InterpolationMode.BICUBIC), CenterCrop(SIDE)
    prepared = Compose([*size, ToTensor(), Normalize((0.48, 0.45, 0.4), (0.26, 0.27, 0.28))])
    rows = [normalize(model.visual(torch.stack([prepared(f) for f in frames])), dim=-1).mean(dim=0) for frames in clips]
    seen = normalize(torch.stack(rows), dim=-1)
    return said, seen, model.logit_scale.exp() * said @ seen.T
