"""Outputs of the small public models by the documented calls of their own libraries.

Shape letters: T texts, P clips, N answers, D embedding dim.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import normalize
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

from tests.model_export.public_models import ANSWERS, SIDE, OpenClip

Clips = Sequence[Sequence[Image.Image]]
"""Frames by clip."""


class LibraryOutputs(NamedTuple):
    """texts (T, D) and clips (P, D), L2-normalized; logits (T, P) by which the library ranks pairs."""

    texts: np.ndarray
    clips: np.ndarray
    logits: np.ndarray


def library_embeddings(family: str, source: Path, texts: Sequence[str], clips: Clips) -> LibraryOutputs:
    """Run a model of `EMBEDDING_MODELS`; every clip has as many frames as the bundle's."""
    with torch.no_grad():
        own = {"xclip": _xclip, "blip": _blip, "open_clip": _open_clip, "embedding_gemma2": _embedding_gemma2}
        own["pe_audio_video"] = _pe_audio_video
        run = own.get(family, _towers)
        by_text, by_clip, logits = run(source, list(texts), clips)
    return LibraryOutputs(normalize(by_text, dim=-1).numpy(), normalize(by_clip, dim=-1).numpy(), logits.numpy())


def _towers(source: Path, texts: list[str], clips: Clips) -> tuple[Tensor, Tensor, Tensor]:
    from transformers import AutoModel, AutoProcessor

    model, processor = AutoModel.from_pretrained(source).eval(), AutoProcessor.from_pretrained(source)
    is_siglip = model.config.model_type == "siglip"
    padding = "max_length" if is_siglip else True
    encoded = processor(text=texts, return_tensors="pt", padding=padding, truncation=True)
    by_text = normalize(model.get_text_features(**encoded).pooler_output, dim=-1)
    rows = []
    for frames in clips:
        pixels = processor(images=list(frames), return_tensors="pt")["pixel_values"]
        rows.append(normalize(model.get_image_features(pixel_values=pixels).pooler_output, dim=-1).mean(dim=0))
    by_clip = normalize(torch.stack(rows), dim=-1)
    bias = model.logit_bias if is_siglip else 0.0
    return by_text, by_clip, model.logit_scale.exp() * by_text @ by_clip.T + bias


def _xclip(source: Path, texts: list[str], clips: Clips) -> tuple[Tensor, Tensor, Tensor]:
    from transformers import XCLIPModel, XCLIPProcessor

    model, processor = XCLIPModel.from_pretrained(source).eval(), XCLIPProcessor.from_pretrained(source)
    encoded = processor.tokenizer(texts, return_tensors="pt", padding=True, truncation=True)
    pixels = torch.cat([processor.image_processor(list(f), return_tensors="pt")["pixel_values"] for f in clips])
    by_text = model.get_text_features(**encoded).pooler_output
    by_clip = model.get_video_features(pixel_values=pixels).pooler_output
    return by_text, by_clip, model(**encoded, pixel_values=pixels).logits_per_text


def _blip(source: Path, texts: list[str], clips: Clips) -> tuple[Tensor, Tensor, Tensor]:
    from transformers import AutoProcessor, BlipForImageTextRetrieval

    model = BlipForImageTextRetrieval.from_pretrained(source).eval()
    processor = AutoProcessor.from_pretrained(source)
    encoded = processor(text=texts, return_tensors="pt", padding=True, truncation=True)
    encoded = {name: encoded[name] for name in ("input_ids", "attention_mask")}
    by_text = normalize(model.text_proj(model.text_encoder(**encoded).last_hidden_state[:, 0]), dim=-1)
    by_clip, logits = [], []
    for frames in clips:
        pixels = processor(images=list(frames), return_tensors="pt")["pixel_values"]
        states = model.vision_model(pixel_values=pixels).last_hidden_state
        by_clip.append(normalize(model.vision_proj(states[:, 0]), dim=-1).mean(dim=0))
        middle = pixels[len(frames) // 2].expand(len(texts), -1, -1, -1)
        match = model(**encoded, pixel_values=middle, use_itm_head=True).itm_score.softmax(dim=-1)[:, 1]
        logits.append(torch.logit(match))
    return by_text, torch.stack(by_clip), torch.stack(logits, dim=1)


def _open_clip(source: Path, texts: list[str], clips: Clips) -> tuple[Tensor, Tensor, Tensor]:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(source)
    model = OpenClip(len(tokenizer)).eval()
    model.load_state_dict(load_file(source / "open_clip_model.safetensors"))
    ids = tokenizer(texts, return_tensors="pt", padding="max_length", truncation=True)["input_ids"]
    by_text = normalize(model.encode_text(ids), dim=-1)
    size = Resize(SIDE, InterpolationMode.BICUBIC), CenterCrop(SIDE)
    prepare = Compose([*size, ToTensor(), Normalize((0.48, 0.45, 0.4), (0.26, 0.27, 0.28))])
    rows = [normalize(model.visual(torch.stack([prepare(f) for f in frames])), dim=-1).mean(dim=0) for frames in clips]
    by_clip = normalize(torch.stack(rows), dim=-1)
    return by_text, by_clip, model.logit_scale.exp() * by_text @ by_clip.T


def library_sounds(
    family: str, source: Path, texts: Sequence[str], sounds: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Run a model of `SOUND_MODELS`: normalized embeddings of texts and of sounds that are no longer than a window."""
    if family == "pe_audio_video":
        still = [Image.new("RGB", (SIDE, SIDE))]
        for_video, for_audio, _, of_sounds = _run_pe(source, texts, [still], sounds)
        by_text = torch.cat([for_video, for_audio, 0 * for_audio], dim=1)
        by_sound = torch.cat([0 * of_sounds, of_sounds, of_sounds], dim=1)
        return by_text.numpy(), normalize(by_sound, dim=-1).numpy()
    if family == "embedding_gemma2":
        embed, prompt = _open_gemma(source)
        with torch.no_grad():
            by_text = embed(text=[prompt + text for text in texts], padding=True, truncation=True)
            return by_text.numpy(), torch.cat([embed(audio=[sound]) for sound in sounds]).numpy()
    from transformers import AutoFeatureExtractor, AutoTokenizer, ClapModel

    model, tokenizer = ClapModel.from_pretrained(source).eval(), AutoTokenizer.from_pretrained(source)
    extractor = AutoFeatureExtractor.from_pretrained(source)
    encoded = tokenizer(list(texts), return_tensors="pt", padding=True, truncation=True)
    features = extractor(list(sounds), sampling_rate=extractor.sampling_rate, return_tensors="pt")["input_features"]
    with torch.no_grad():
        of_sounds = model.get_audio_features(features.float(), is_longer=torch.zeros(len(sounds), 1, dtype=torch.bool))
        of_texts = model.get_text_features(encoded["input_ids"], encoded["attention_mask"])
    return of_texts.pooler_output.numpy(), of_sounds.pooler_output.numpy()


def _run_pe(source: Path, texts: Sequence[str], clips: Clips, sounds: Sequence[np.ndarray]) -> tuple[Tensor, ...]:
    """Return PE-AV's embeddings of texts for videos and for sounds, of clips, and of sounds padded to 10 s.

    The model takes as many of each, so that the last ones are repeated.
    """
    from transformers import AutoProcessor, PeAudioVideoConfig, PeAudioVideoModel

    config = PeAudioVideoConfig.from_pretrained(source)
    config.audio_video_config.video_config.vision_config.num_labels = 20
    model: Any = PeAudioVideoModel.from_pretrained(source, config=config).eval()
    processor: Any = AutoProcessor.from_pretrained(source)
    size = max(len(texts), len(clips), len(sounds))
    rows = [[*items, *[items[-1]] * (size - len(items))] for items in (texts, clips, sounds)]
    encoded = processor.tokenizer(rows[0], return_tensors="pt", padding=True, truncation=True)
    videos = [np.stack([np.asarray(frame) for frame in frames]) for frames in rows[1]]
    prepared = [processor.video_processor(video, do_sample_frames=False, return_tensors="pt") for video in videos]
    padding = {"padding": "max_length", "max_length": 480_000, "sampling_rate": 48_000}
    inputs = {name: encoded[name] for name in ("input_ids", "attention_mask")}
    inputs |= processor.feature_extractor(rows[2], return_tensors="pt", **padding)
    with torch.no_grad():
        outputs = model(**inputs, pixel_values_videos=torch.cat([row["pixel_values_videos"] for row in prepared]))
    embeddings = (outputs.text_video_embeds, outputs.text_audio_embeds, outputs.video_embeds, outputs.audio_embeds)
    sizes = (len(texts), len(texts), len(clips), len(sounds))
    return tuple(normalize(rows[:count], dim=-1) for rows, count in zip(embeddings, sizes, strict=True))


def _pe_audio_video(source: Path, texts: list[str], clips: Clips) -> tuple[Tensor, Tensor, Tensor]:
    for_video, for_audio, of_clips, _ = _run_pe(source, texts, clips, [np.zeros(48_000, np.float32)])
    by_text = torch.cat([for_video, for_audio, 0 * for_audio], dim=1)
    by_clip = torch.cat([of_clips, 0 * of_clips, of_clips], dim=1)
    return by_text, by_clip, for_video @ of_clips.T / 2


def _open_gemma(source: Path) -> tuple[Callable[..., Tensor], str]:
    """Return a function that embeds what its processor accepts, and the prompt of queries."""
    from transformers import AutoProcessor, EmbeddingGemma2Model

    model, processor = EmbeddingGemma2Model.from_pretrained(source).eval(), AutoProcessor.from_pretrained(source)

    def embed(**inputs: Any) -> Tensor:
        prepared = processor(**inputs, return_tensors="pt")
        states, mask = model(**prepared).last_hidden_state, prepared["attention_mask"][..., None]
        return normalize((states * mask).sum(dim=1) / mask.sum(dim=1), dim=-1)

    return embed, json.loads((source / "config_sentence_transformers.json").read_text())["prompts"]["query"]


def _embedding_gemma2(source: Path, texts: list[str], clips: Clips) -> tuple[Tensor, Tensor, Tensor]:
    """Read clips of equal frames as images."""
    embed, prompt = _open_gemma(source)
    by_text = embed(text=[prompt + text for text in texts], padding=True, truncation=True)
    rows = []
    for frames in clips:
        if all(frame == frames[0] for frame in frames):
            rows.append(embed(images=[[frames[0]]]))
        else:
            video = [np.stack([np.asarray(frame) for frame in frames])]
            rows.append(embed(videos=video, do_sample_frames=False))
    by_clip = torch.cat(rows)
    return by_text, by_clip, by_text @ by_clip.T


def library_logits(family: str, source: Path, texts: Sequence[str], clips: Clips) -> np.ndarray:
    """Run a model of `PAIR_MODELS`: logits (T, P, N), N 1 for matching.

    The library reads single images; frames of a clip are combined as the bundle's notes state.
    """
    with torch.no_grad():
        if family == "blip_answers":
            return _blip_answers(source, texts, clips)
        return _vilt(family, source, list(texts), clips)


def _vilt(family: str, source: Path, texts: list[str], clips: Clips) -> np.ndarray:
    """Run all frames in one batch, in which the smaller ones are padded."""
    from transformers import ViltForImageAndTextRetrieval, ViltForQuestionAnswering, ViltProcessor

    model_class: Any = ViltForImageAndTextRetrieval if family == "vilt_match" else ViltForQuestionAnswering
    model, processor = model_class.from_pretrained(source).eval(), ViltProcessor.from_pretrained(source)
    frames = [frame for clip in clips for frame in clip]
    pixels = processor.image_processor(frames, return_tensors="pt")
    assert not pixels["pixel_mask"].all()
    rows = []
    for text in texts:
        encoded = processor.tokenizer([text] * len(frames), return_tensors="pt", padding=True, truncation=True)
        logits = model(**encoded, **pixels).logits
        rows.append(logits.reshape(len(clips), len(clips[0]), -1).mean(dim=1))
    return torch.stack(rows).numpy()


def _blip_answers(source: Path, questions: Sequence[str], clips: Clips) -> np.ndarray:
    from transformers import AutoProcessor, BlipForQuestionAnswering

    model = BlipForQuestionAnswering.from_pretrained(source).eval()
    processor: Any = AutoProcessor.from_pretrained(source)
    logits = np.empty((len(questions), len(clips), len(ANSWERS)), np.float32)
    for column, frames in enumerate(clips):
        pixels = processor(images=list(frames), return_tensors="pt")["pixel_values"]
        for row, question in enumerate(questions):
            ids = processor(text=question, return_tensors="pt", truncation=True)["input_ids"]
            for index, answer in enumerate(ANSWERS):
                labels = processor(text=answer, return_tensors="pt")["input_ids"]
                labels[:, 0] = model.decoder_start_token_id
                loss = _answer_loss(model, ids, pixels, labels)
                logits[row, column, index] = -float(loss) * (labels.shape[1] - 1)
    return logits


def _answer_loss(model: Any, ids: Tensor, pixels: Tensor, labels: Tensor) -> Tensor:
    if all(torch.equal(frame, pixels[0]) for frame in pixels):
        image_loss: Tensor = model(input_ids=ids, pixel_values=pixels[:1], labels=labels).loss
        return image_loss
    patches = model.vision_model(pixel_values=pixels).last_hidden_state.flatten(0, 1)[None]
    question = model.text_encoder(input_ids=ids, encoder_hidden_states=patches).last_hidden_state
    loss: Tensor = model.text_decoder(input_ids=labels, encoder_hidden_states=question, labels=labels).loss
    return loss
