"""Small randomly initialized models of public families, saved as their own libraries save them."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn

from model_export.public.library_parity import TEXTS

SIDE = 32
"""Side of an image in pixels."""
VILT_SIDE, VILT_PATCH = 24, 4
ANSWERS = ["red", "green", "two circles", "yes", "no 🎉"]
CORPUS = [*TEXTS[:6], "a red square moves left", "two green circles and a blue triangle", "what colour is it?"] * 4


def perturbed(build: Callable[[], nn.Module]) -> Any:
    """Return a model with random weights whose norms and biases are not one and zero, so that each has an effect."""
    torch.manual_seed(0)
    model = build()
    with torch.no_grad():
        for name, values in model.named_parameters():
            if "logit" not in name:
                values.add_(0.08 * torch.randn_like(values))
    return model.eval()


def clip_tokenizer() -> Any:
    """CLIP's tokenizer of bytes, with a few merges."""
    from transformers import CLIPTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("r", "e"), ("re", "d</w>"), ("r", "e</w>"), ("s", "q"), ("sq", "u"), ("squ", "a"), ("squa", "re</w>")]
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(merge) for merge in merges)]
    vocabulary = {piece: index for index, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)


def bert_tokenizer(length: int = 512) -> Any:
    """BERT's tokenizer of letters with a few words, which truncates at `length` tokens."""
    from transformers import BertTokenizer

    letters = [chr(code) for code in range(33, 127)]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    vocabulary = {piece: index for index, piece in enumerate([*pieces, "red", "square"])}
    return BertTokenizer(vocab=vocabulary, model_max_length=length)


ONE_LAYER = {"num_hidden_layers": 1}
"""Of models that every run of the tests exports, which takes time for each layer."""


def text_config(tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 77,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


VISION_CONFIG = {
    "hidden_size": 40,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": 8,
}
SQUARE = {"height": SIDE, "width": SIDE}


def save_all(folder: Path, *parts: Any) -> Path:
    for part in parts:
        part.save_pretrained(folder)
    return folder


def make_clip(folder: Path) -> Path:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    tokenizer = clip_tokenizer()
    config = CLIPConfig(
        text_config=text_config(tokenizer),
        vision_config=VISION_CONFIG,
        projection_dim=24,
        logit_scale_init_value=3.1,
    )
    processor = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SQUARE)
    return save_all(folder, perturbed(lambda: CLIPModel(config)), tokenizer, processor)


def make_siglip(folder: Path) -> Path:
    """SigLIP with a tokenizer like SentencePiece's: unigrams, `▁` before words, lower case, no punctuation."""
    raw = Tokenizer(models.Unigram())
    raw.normalizer = normalizers.Sequence(
        [
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"[!-/:-@\[-`{-~]"), ""),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    )
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    raw.train_from_iterator(CORPUS, trainers.UnigramTrainer(vocab_size=160, special_tokens=special, unk_token="<unk>"))
    return save_siglip(folder, raw, end="</s>", pad="</s>", resample=3)


def make_siglip2(folder: Path) -> Path:
    """SigLIP 2 of one resolution: a byte-level fallback BPE that keeps punctuation, padded with token 0."""
    raw = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    raw.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(" ", "▁")])
    raw.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    special = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    raw.train_from_iterator(CORPUS[:3], trainers.BpeTrainer(vocab_size=400, special_tokens=special))
    return save_siglip(folder, raw, end="<eos>", pad="<pad>", resample=2)


def save_siglip(folder: Path, raw: Tokenizer, *, end: str, pad: str, resample: int) -> Path:
    from transformers import PreTrainedTokenizerFast, SiglipConfig, SiglipImageProcessor, SiglipModel

    raw.post_processor = processors.TemplateProcessing(single=f"$A {end}", special_tokens=[(end, 1)])
    # As in the published folders: no mask, 64 tokens.
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token=end,
        pad_token=pad,
        unk_token="<unk>",
        model_max_length=64,
        model_input_names=["input_ids"],
    )
    text = text_config(tokenizer) | {"max_position_embeddings": 64, "projection_size": 40, "bos_token_id": None}
    model = perturbed(lambda: SiglipModel(SiglipConfig(text_config=text, vision_config=VISION_CONFIG)))
    with torch.no_grad():
        model.logit_scale.fill_(2.9)
        model.logit_bias.fill_(-9.5)
    return save_all(folder, model, tokenizer, SiglipImageProcessor(size=SQUARE, resample=resample))


def replace_by_sentencepiece(folder: Path) -> None:
    """Replace a SigLIP folder's tokenizer.json by the SentencePiece model with the same pieces."""
    from transformers.convert_slow_tokenizer import import_protobuf

    unigram = json.loads((folder / "tokenizer.json").read_text())["model"]
    model = import_protobuf().ModelProto()
    model.trainer_spec.model_type = 1
    model.trainer_spec.unk_id = unigram["unk_id"]
    for piece, score in unigram["vocab"]:
        model.pieces.add(piece=piece, score=score)
    (folder / "spiece.model").write_bytes(model.SerializeToString())
    (folder / "tokenizer.json").unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"tokenizer_class": "SiglipTokenizer"}))


def make_xclip(folder: Path) -> Path:
    """X-CLIP with three frames that exchange messages, and a generator of prompts."""
    from transformers import VideoMAEImageProcessor, XCLIPConfig, XCLIPModel

    tokenizer = clip_tokenizer()
    vision = VISION_CONFIG | {"num_frames": 3, "mit_hidden_size": 24, "mit_intermediate_size": 48}
    config = XCLIPConfig(
        text_config=text_config(tokenizer),
        vision_config=vision | {"mit_num_attention_heads": 4, "drop_path_rate": 0.0},
        projection_dim=24,
        prompt_num_attention_heads=4,
        prompt_layers=1,
        logit_scale_init_value=3.0,
    )
    processor = VideoMAEImageProcessor(size={"shortest_edge": SIDE}, crop_size=SQUARE)
    return save_all(folder, perturbed(lambda: XCLIPModel(config)), tokenizer, processor)


class OpenClip(nn.Module):
    """open_clip's CLIP, as its weight names imply it."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.visual = OpenClipVisual()
        self.token_embedding = nn.Embedding(vocabulary, 32)
        self.positional_embedding = nn.Parameter(0.1 * torch.randn(77, 32))
        self.transformer = OpenClipBlocks(32, 4)
        self.ln_final = nn.LayerNorm(32)
        self.text_projection = nn.Parameter(0.2 * torch.randn(32, 24))
        self.logit_scale = nn.Parameter(torch.tensor(3.2))

    def encode_text(self, ids: torch.Tensor) -> torch.Tensor:
        length = ids.shape[1]
        mask = torch.full((length, length), float("-inf")).triu(1)
        states = self.token_embedding(ids) + self.positional_embedding[:length]
        states = self.ln_final(self.transformer(states, mask))
        return states[torch.arange(len(ids)), ids.argmax(dim=1)] @ self.text_projection


class OpenClipVisual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.randn(64))
        self.conv1 = nn.Conv2d(3, 64, 8, 8, bias=False)
        self.positional_embedding = nn.Parameter(0.1 * torch.randn((SIDE // 8) ** 2 + 1, 64))
        self.ln_pre, self.ln_post = nn.LayerNorm(64), nn.LayerNorm(64)
        self.transformer = OpenClipBlocks(64, 2)
        self.proj = nn.Parameter(0.2 * torch.randn(64, 24))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        patches = self.conv1(pixels).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(patches), 1, -1)
        states = self.ln_pre(torch.cat([first, patches], dim=1) + self.positional_embedding)
        return self.ln_post(self.transformer(states, None)[:, 0]) @ self.proj


class OpenClipBlocks(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(OpenClipBlock(width, heads) for _ in range(2))

    def forward(self, states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        for block in self.resblocks:
            states = block(states, mask)
        return states


class OpenClipBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        steps = (("c_fc", nn.Linear(width, 4 * width)), ("gelu", nn.GELU()), ("c_proj", nn.Linear(4 * width, width)))
        self.mlp = nn.Sequential(OrderedDict(steps))

    def forward(self, states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        normed = self.ln_1(states)
        states = states + self.attn(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
        return states + self.mlp(self.ln_2(states))


def make_open_clip(folder: Path) -> Path:
    """open_clip's configuration and weights, with a tokenizer of transformers."""
    tokenizer = clip_tokenizer()
    save_all(folder, tokenizer)
    save_file(perturbed(lambda: OpenClip(len(tokenizer))).state_dict(), folder / "open_clip_model.safetensors")
    text = {"context_length": 77, "vocab_size": len(tokenizer), "width": 32, "heads": 4, "layers": 2}
    vision = {"image_size": SIDE, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32}
    preprocessing = {"mean": [0.48, 0.45, 0.4], "std": [0.26, 0.27, 0.28], "interpolation": "bicubic"}
    model = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}
    config = {"model_cfg": model, "preprocess_cfg": preprocessing}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


def make_blip(folder: Path) -> Path:
    """BLIP for retrieval and matching."""
    return _make_blip(folder, "BlipForImageTextRetrieval", vision_width=40)


def make_blip_answers(folder: Path) -> Path:
    """BLIP for question answering."""
    return _make_blip(folder, "BlipForQuestionAnswering", vision_width=32)


def make_blip_captions(folder: Path) -> Path:
    """BLIP captioning, whose captions vary. As in the published models, they begin with a token that the tokenizer does
    not have."""
    start = len(bert_tokenizer())
    changes = {"vocab_size": start + 2, "bos_token_id": start, "sep_token_id": 3, "num_hidden_layers": 2}

    def vary(model: Any) -> None:
        head = model.text_decoder.cls.predictions
        head.transform.LayerNorm.weight.mul_(8)
        head.bias[changes["sep_token_id"]] = 1.0

    return _make_blip(folder, "BlipForConditionalGeneration", 40, changes, vary)


def _make_blip(
    folder: Path,
    model_class: str,
    vision_width: int,
    text_changes: dict[str, Any] | None = None,
    change: Callable[[Any], None] = lambda _: None,
) -> Path:
    import transformers

    tokenizer = bert_tokenizer(60)
    text = text_config(tokenizer) | {"max_position_embeddings": 64, "encoder_hidden_size": vision_width}
    text |= {"bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "hidden_act": "gelu"} | ONE_LAYER
    vision = VISION_CONFIG | {"hidden_size": vision_width} | ONE_LAYER
    config = transformers.BlipConfig(
        text_config=text | (text_changes or {}), vision_config=vision, image_text_hidden_size=24
    )
    model = perturbed(lambda: getattr(transformers, model_class)(config))
    with torch.no_grad():
        change(model)
    return save_all(folder, model, tokenizer, transformers.BlipImageProcessor(size=SQUARE))


def make_vilt_match(folder: Path) -> Path:
    """ViLT for retrieval."""
    return _make_vilt(folder, "ViltForImageAndTextRetrieval")


def make_vilt_answers(folder: Path) -> Path:
    """ViLT for question answering."""
    return _make_vilt(folder, "ViltForQuestionAnswering")


def _make_vilt(folder: Path, model_class: str) -> Path:
    import transformers

    tokenizer = bert_tokenizer(40)
    config = transformers.ViltConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=48,
        image_size=VILT_SIDE,
        patch_size=VILT_PATCH,
        max_position_embeddings=40,
        id2label=dict(enumerate(ANSWERS)),
        label2id={answer: index for index, answer in enumerate(ANSWERS)},
    )
    model = perturbed(lambda: getattr(transformers, model_class)(config))
    with torch.no_grad():
        model.vilt.embeddings.position_embeddings.mul_(6)  # so that interpolated positions have an effect
    processor = transformers.ViltImageProcessor(size={"shortest_edge": VILT_SIDE}, size_divisor=VILT_PATCH)
    return save_all(folder, model, tokenizer, processor)


def make_embedding_gemma2(folder: Path) -> Path:
    """EmbeddingGemma 2 with two layers of text, windows of 40 tokens, and tiles of 8 pixels."""
    import transformers as library

    raw = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    raw.normalizer = normalizers.Replace(" ", "▁")
    media = {f"{name}_token": f"<|{name}|>" for name in ("image", "audio", "boi", "eoi", "boa", "eoa")}
    special = ["<pad>", "<eos>", "<bos>", "<unk>", *media.values(), "<|video|>"]
    bytes_of = [f"<0x{byte:02X}>" for byte in range(256)]
    raw.train_from_iterator(CORPUS[:3], trainers.BpeTrainer(vocab_size=420, special_tokens=[*special, *bytes_of]))
    ids = {token: raw.token_to_id(token) for token in special}
    ends = [(token, ids[token]) for token in ("<bos>", "<eos>")]
    raw.post_processor = processors.TemplateProcessing(single="<bos> $A <eos>", special_tokens=ends)
    tokenizer = library.PreTrainedTokenizerFast(
        tokenizer_object=raw,
        **{f"{name}_token": f"<{name}>" for name in ("pad", "eos", "bos", "unk")},
        extra_special_tokens=media,
        model_max_length=200,
    )
    text = {
        **{"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "global_head_dim": 16},
        **{"hidden_size_per_layer_input": 8, "embedding_dim": 24, "sliding_window": 40, "sliding_window_pattern": 2},
    }
    vision = {
        **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4},
        **{"num_key_value_heads": 4, "head_dim": 8, "pooling_kernel_size": 2, "patch_size": 4, "standardize": True},
    }
    audio = {
        **{"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "output_proj_dims": 24},
        **{"subsampling_conv_channels": [32, 8], "attention_context_right": 2},
    }
    config = library.EmbeddingGemma2Config(
        text_config=text,
        audio_config=audio,
        vision_config=vision | {"position_embedding_size": 600},
        image_token_id=ids["<|image|>"],
        video_token_id=ids["<|video|>"],
        audio_token_id=ids["<|audio|>"],
        matryoshka_dimensions=[16, 8],
    )
    model = perturbed(lambda: library.EmbeddingGemma2Model(config))
    with torch.no_grad():
        model.vision_tower.std_bias.normal_()
        model.vision_tower.std_scale.uniform_(0.5, 1.5)
        model.audio_tower.layers[0].self_attn.q_proj.input_max.fill_(0.3)
        model.audio_tower.layers[0].self_attn.q_proj.input_min.fill_(-0.2)
        model.audio_tower.layers[0].feed_forward1.ffw_layer_2.output_max.fill_(0.2)
    sizes = {"patch_size": 4, "pooling_kernel_size": 2}
    processor = library.EmbeddingGemma2Processor(
        feature_extractor=library.Gemma4AudioFeatureExtractor(feature_size=32),
        image_processor=library.Gemma4ImageProcessor(**sizes),
        tokenizer=tokenizer,
        video_processor=library.EmbeddingGemma2VideoProcessor(**sizes),
        audio_seq_length=50,
    )
    prompts = {"query": "task: search | query: ", "document": "text: "}
    save_all(folder, model, processor)
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))
    return folder


def make_pe_audio_video(folder: Path) -> Path:
    """PE-AV with one layer per encoder, frames of 32 pixels and tokens of 40 ms."""
    import transformers as library

    tokenizer = bert_tokenizer(40)
    encoder = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "head_dim": 16} | ONE_LAYER
    sizes = {"img_size": SIDE, "patch_size": 8, "ref_feat_shape": [4, 4], "embed_dim": 64, "depth": 1, "num_heads": 2}
    frame_encoder = {
        "architecture": "vit_pe_core_tiny_patch16_384",
        "model_args": sizes | {"attn_pool_num_heads": 2},
        **{"num_labels": 20, "num_classes": 20},
    }
    codec = {"model_type": "dac", "encoder_hidden_size": 4, "downsampling_ratios": [2, 8, 10, 12], "codebook_dim": 16}
    text = text_config(tokenizer) | {"local_attention": 16, "cls_token_id": 2, "sep_token_id": 3}
    both = {
        "audio_config": encoder | {"dac_config": codec},
        "video_config": encoder | {"vision_config": frame_encoder},
    }
    config = library.PeAudioVideoConfig(
        text_config=text | {"model_type": "modernbert"}, audio_video_config=encoder | both
    )
    model = perturbed(lambda: library.PeAudioVideoModel(config))
    normalization = {"do_rescale": True, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    processor = library.PeAudioVideoProcessor(
        feature_extractor=library.PeAudioFeatureExtractor(),
        video_processor=library.PeVideoVideoProcessor(size=SQUARE, do_resize=True, **normalization),
        tokenizer=tokenizer,
    )
    return save_all(folder, model, processor)


def make_clap(folder: Path) -> Path:
    """CLAP with the fusion of long sounds, for windows of 2 s at 16 kHz."""
    import transformers as library

    tokenizer = bert_tokenizer(40)
    text = text_config(tokenizer) | ONE_LAYER | {"max_position_embeddings": 48}
    audio = {
        **{"num_mel_bins": 16, "spec_size": 64, "window_size": 4, "patch_embeds_hidden_size": 16, "hidden_size": 32},
        **{"depths": [1, 2], "num_attention_heads": [2, 4], "num_hidden_layers": 2},
        **{"enable_fusion": True, "fusion_type": "aff_2d"},
    }
    config = library.ClapConfig(text_config=text, audio_config=audio, projection_dim=24)
    model = perturbed(lambda: library.ClapModel(config))
    with torch.no_grad():
        norm = model.audio_model.audio_encoder.batch_norm
        norm.running_mean.fill_(-40.0)
        norm.running_var.fill_(400.0)
    extractor = library.ClapFeatureExtractor(
        feature_size=16, sampling_rate=16_000, hop_length=160, max_length_s=2, fft_window_size=512, frequency_max=7000
    )
    return save_all(folder, model, tokenizer, extractor)


EMBEDDING_MODELS: dict[str, Callable[[Path], Path]] = {
    "clip": make_clip,
    "siglip": make_siglip,
    "siglip2": make_siglip2,
    "xclip": make_xclip,
    "open_clip": make_open_clip,
    "blip": make_blip,
    "embedding_gemma2": make_embedding_gemma2,
    "pe_audio_video": make_pe_audio_video,
}
"""Models with embeddings of texts and images."""
SOUND_MODELS: dict[str, Callable[[Path], Path]] = {
    "clap": make_clap,
    "embedding_gemma2": make_embedding_gemma2,
    "pe_audio_video": make_pe_audio_video,
}
"""Models with embeddings of texts and sounds."""
PAIR_MODELS: dict[str, Callable[[Path], Path]] = {
    "vilt_match": make_vilt_match,
    "vilt_answers": make_vilt_answers,
    "blip_answers": make_blip_answers,
}
"""Models that read a text together with an image, and have no embeddings."""
