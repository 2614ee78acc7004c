"""Small randomly initialized models that read a text beside a picture, saved as their own library saves them, and what
a user of that library gets from them.

Shape letters: T texts or questions, P clips, N answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.model_export.public_libraries import Clips
from tests.model_export.public_models import SIDE, blip_config, shaken, word_pieces

ANSWERS = ["red", "green", "two circles and a square", "yes", "no 🎉"]
VILT_SIDE, VILT_PATCH = 24, 4


def make_vilt_matches(folder: Path) -> Path:
    """A ViLT folder for retrieval."""
    from transformers import ViltForImageAndTextRetrieval

    return _make_vilt(folder, ViltForImageAndTextRetrieval)


def make_vilt_answers(folder: Path) -> Path:
    """A ViLT folder for question answering."""
    from transformers import ViltForQuestionAnswering

    return _make_vilt(folder, ViltForQuestionAnswering)


def _make_vilt(folder: Path, kind: Any) -> Path:
    from transformers import ViltConfig, ViltImageProcessor

    tokenizer = word_pieces(40)
    config = ViltConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=48,
        image_size=VILT_SIDE,
        patch_size=VILT_PATCH,
        max_position_embeddings=40,
        id2label=dict(enumerate(ANSWERS)),
        label2id={answer: number for number, answer in enumerate(ANSWERS)},
    )
    model = shaken(lambda: kind(config))
    with torch.no_grad():
        model.vilt.embeddings.position_embeddings.mul_(6)  # so that where they lie is noticed
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ViltImageProcessor(size={"shortest_edge": VILT_SIDE}, size_divisor=VILT_PATCH).save_pretrained(folder)
    return folder


def make_blip_answers(folder: Path) -> Path:
    """A BLIP folder for question answering."""
    from transformers import BlipForQuestionAnswering, BlipImageProcessor

    tokenizer = word_pieces(60)
    shaken(lambda: BlipForQuestionAnswering(blip_config(tokenizer, 32))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    BlipImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


MAKERS: dict[str, Callable[[Path], Path]] = {
    "vilt_matches": make_vilt_matches,
    "vilt_answers": make_vilt_answers,
    "blip_answers": make_blip_answers,
}


def library_says(family: str, source: Path, texts: Sequence[str], clips: Clips) -> np.ndarray:
    """(T, P, N) logits, N 1 for pairs: those of single pictures by the library's own call, put together as the bundle
    says it does where the frames of a clip differ."""
    with torch.no_grad():
        if family == "blip_answers":
            return _blip(source, texts, clips)
        return _vilt(family, source, list(texts), clips)


def _vilt(family: str, source: Path, texts: list[str], clips: Clips) -> np.ndarray:
    """All frames in one batch, so that the smaller ones are padded."""
    from transformers import ViltForImageAndTextRetrieval, ViltForQuestionAnswering, ViltProcessor

    kind: Any = ViltForImageAndTextRetrieval if family == "vilt_matches" else ViltForQuestionAnswering
    model, processor = kind.from_pretrained(source).eval(), ViltProcessor.from_pretrained(source)
    frames = [frame for clip in clips for frame in clip]
    pixels = processor.image_processor(frames, return_tensors="pt")
    assert not pixels["pixel_mask"].all()
    rows = []
    for text in texts:
        encoded = processor.tokenizer([text] * len(frames), return_tensors="pt", padding=True, truncation=True)
        logits = model(**encoded, **pixels).logits
        rows.append(logits.reshape(len(clips), len(clips[0]), -1).mean(dim=1))
    return torch.stack(rows).numpy()


def _blip(source: Path, questions: Sequence[str], clips: Clips) -> np.ndarray:
    from transformers import AutoProcessor, BlipForQuestionAnswering

    model = BlipForQuestionAnswering.from_pretrained(source).eval()
    processor: Any = AutoProcessor.from_pretrained(source)
    found = np.empty((len(questions), len(clips), len(ANSWERS)), np.float32)
    for place, frames in enumerate(clips):
        pixels = processor(images=list(frames), return_tensors="pt")["pixel_values"]
        for number, question in enumerate(questions):
            asked = processor(text=question, return_tensors="pt", truncation=True)["input_ids"]
            for entry, answer in enumerate(ANSWERS):
                labels = processor(text=answer, return_tensors="pt")["input_ids"]
                labels[:, 0] = model.decoder_start_token_id
                loss = _loss(model, asked, pixels, labels)
                found[number, place, entry] = -float(loss) * (labels.shape[1] - 1)
    return found


def _loss(model: Any, asked: Tensor, pixels: Tensor, labels: Tensor) -> Tensor:
    if all(torch.equal(one, pixels[0]) for one in pixels):
        whole: Tensor = model(input_ids=asked, pixel_values=pixels[:1], labels=labels).loss
        return whole
    patches = model.vision_model(pixel_values=pixels).last_hidden_state.flatten(0, 1)[None]
    read = model.text_encoder(input_ids=asked, encoder_hidden_states=patches).last_hidden_state
    loss: Tensor = model.text_decoder(input_ids=labels, encoder_hidden_states=read, labels=labels).loss
    return loss
