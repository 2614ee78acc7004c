"""Small randomly initialized models of public families, saved as their own libraries save them, with a tokenizer
trained on the spot and the family's real processor."""

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
VOCABULARY = 420
ONE_LAYER = {"num_hidden_layers": 1}
"""Of the two families that every run of the tests turns into ONNX, which takes its time for each."""


def corpus() -> list[str]:
    """Enough for a few merges of letters that the tests write."""
    return [*TEXTS[:6], "a red square moves left", "two green circles and a blue triangle", "what colour is it?"] * 4


def shaken(build: Callable[[], nn.Module], seed: int = 0) -> Any:
    """Random weights whose norms and biases are moved off one and zero, so that a forgotten one is noticed."""
    torch.manual_seed(seed)
    model = build()
    with torch.no_grad():
        for name, values in model.named_parameters():
            if "logit" in name:
                continue
            values.add_(0.08 * torch.randn_like(values))
    return model.eval()


def clip_tokenizer(bos: str = "<|startoftext|>", eos: str = "<|endoftext|>") -> Any:
    """Byte-level BPE of CLIP's kind: lower case, `</w>` at the ends of words, both special tokens last."""
    from transformers import CLIPTokenizer

    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 2 + 40,
        special_tokens=[],
        end_of_word_suffix="</w>",
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    small = CLIPTokenizer()._tokenizer
    raw = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    raw.normalizer, raw.pre_tokenizer = small.normalizer, small.pre_tokenizer
    raw.train_from_iterator(corpus(), trainer)
    learnt = json.loads(raw.to_str())["model"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*alphabet, *(f"{letter}</w>" for letter in alphabet)]
    merges = []
    for left, right in (tuple(m) for m in learnt["merges"]):
        if len(pieces) >= VOCABULARY + 200:
            break
        if left in pieces and right in pieces and left + right not in pieces:
            pieces.append(left + right)
            merges.append((left, right))
    vocabulary = {piece: number for number, piece in enumerate([*pieces, bos, eos])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)


def make_clip(folder: Path) -> Path:
    """A CLIP folder as `save_pretrained` writes it."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    tokenizer = clip_tokenizer()
    config = CLIPConfig(
        text_config=clip_text(tokenizer) | ONE_LAYER,
        vision_config=clip_vision() | ONE_LAYER,
        projection_dim=24,
        logit_scale_init_value=3.1,
    )
    shaken(lambda: CLIPModel(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


def clip_text(tokenizer: Any) -> dict[str, Any]:
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


def clip_vision() -> dict[str, Any]:
    return {
        "hidden_size": 40,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": SIDE,
        "patch_size": 8,
    }


def make_siglip(folder: Path) -> Path:
    """A SigLIP folder with a tokenizer of SentencePiece's kind: unigrams, `▁` before words, lower case, no marks."""
    from transformers import PreTrainedTokenizerFast

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
    raw.train_from_iterator(
        corpus(), trainers.UnigramTrainer(vocab_size=160, special_tokens=special, unk_token="<unk>")
    )
    raw.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    # As the published folders state it: no mask, 64 tokens, padded by the end of the text.
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token="</s>",
        pad_token="</s>",
        unk_token="<unk>",
        model_max_length=64,
        model_input_names=["input_ids"],
    )
    save_siglip(folder, tokenizer)
    return folder


def write_pieces(folder: Path) -> None:
    """The pieces of a SigLIP folder's tokenizer.json as the SentencePiece model that its authors published."""
    from transformers.convert_slow_tokenizer import import_protobuf

    stated = json.loads((folder / "tokenizer.json").read_text())["model"]
    model = import_protobuf().ModelProto()
    model.trainer_spec.model_type = 1
    model.trainer_spec.unk_id = stated["unk_id"]
    for piece, score in stated["vocab"]:
        model.pieces.add(piece=piece, score=score)
    (folder / "spiece.model").write_bytes(model.SerializeToString())
    (folder / "tokenizer.json").unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"tokenizer_class": "SiglipTokenizer"}))


def make_siglip2(folder: Path) -> Path:
    """SigLIP 2 of one resolution: the same model with a byte-level fallback BPE that keeps marks, and 0 for padding."""
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    raw.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(" ", "▁")])
    raw.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    special = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{number:02X}>" for number in range(256))]
    raw.train_from_iterator(corpus()[:3], trainers.BpeTrainer(vocab_size=400, special_tokens=special))
    raw.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=64,
        model_input_names=["input_ids"],
    )
    save_siglip(folder, tokenizer, resample=2)
    return folder


def save_siglip(folder: Path, tokenizer: Any, resample: int = 3) -> None:
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel

    text = clip_text(tokenizer) | {"max_position_embeddings": 64, "projection_size": 40, "bos_token_id": None}
    config = SiglipConfig(text_config=text, vision_config=clip_vision())
    model = shaken(lambda: SiglipModel(config))
    with torch.no_grad():
        model.logit_scale.fill_(2.9)
        model.logit_bias.fill_(-9.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    SiglipImageProcessor(size={"height": SIDE, "width": SIDE}, resample=resample).save_pretrained(folder)


def make_xclip(folder: Path) -> Path:
    """An X-CLIP folder: three frames that exchange messages, and a generator of prompts."""
    from transformers import VideoMAEImageProcessor, XCLIPConfig, XCLIPModel

    tokenizer = clip_tokenizer()
    vision = clip_vision() | {"num_frames": 3, "mit_hidden_size": 24, "mit_intermediate_size": 48}
    vision |= {"mit_num_attention_heads": 4, "drop_path_rate": 0.0}
    config = XCLIPConfig(
        text_config=clip_text(tokenizer),
        vision_config=vision,
        projection_dim=24,
        prompt_num_attention_heads=4,
        prompt_layers=1,
        logit_scale_init_value=3.0,
    )
    shaken(lambda: XCLIPModel(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"shortest_edge": SIDE}, {"height": SIDE, "width": SIDE}
    VideoMAEImageProcessor(size=size[0], crop_size=size[1]).save_pretrained(folder)
    return folder


def word_pieces(length: int) -> Any:
    """A tokenizer of BERT's kind, which cuts at ``length`` tokens."""
    from transformers import BertTokenizer

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    raw = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    raw.normalizer, raw.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    raw.train_from_iterator(corpus(), trainers.WordPieceTrainer(vocab_size=260, special_tokens=special))
    return BertTokenizer(vocab=raw.get_vocab(), model_max_length=length)


def blip_config(tokenizer: Any, vision_width: int = 40) -> Any:
    from transformers import BlipConfig

    text = clip_text(tokenizer) | {"max_position_embeddings": 64, "encoder_hidden_size": vision_width}
    text |= {"bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "hidden_act": "gelu"}
    vision = clip_vision() | {"hidden_size": vision_width}
    return BlipConfig(text_config=text | ONE_LAYER, vision_config=vision | ONE_LAYER, image_text_hidden_size=24)


def make_blip(folder: Path) -> Path:
    """A BLIP folder for retrieval and matching, with a WordPiece tokenizer."""
    from transformers import BlipForImageTextRetrieval, BlipImageProcessor

    tokenizer = word_pieces(60)
    config = blip_config(tokenizer)
    shaken(lambda: BlipForImageTextRetrieval(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    BlipImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


class OpenClip(nn.Module):
    """open_clip's CLIP as its file of weights implies it: both towers of residual attention blocks, output of the
    first token or of the end of the text, two projections."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.visual = OpenVisual()
        self.token_embedding = nn.Embedding(vocabulary, 32)
        self.positional_embedding = nn.Parameter(0.1 * torch.randn(77, 32))
        self.transformer = OpenBlocks(32, 4)
        self.ln_final = nn.LayerNorm(32)
        self.text_projection = nn.Parameter(0.2 * torch.randn(32, 24))
        self.logit_scale = nn.Parameter(torch.tensor(3.2))

    def encode_text(self, ids: torch.Tensor) -> torch.Tensor:
        length = ids.shape[1]
        mask = torch.full((length, length), float("-inf")).triu(1)
        states = self.token_embedding(ids) + self.positional_embedding[:length]
        states = self.ln_final(self.transformer(states, mask))
        return states[torch.arange(len(ids)), ids.argmax(dim=1)] @ self.text_projection


class OpenVisual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.randn(64))
        self.conv1 = nn.Conv2d(3, 64, 8, 8, bias=False)
        self.positional_embedding = nn.Parameter(0.1 * torch.randn((SIDE // 8) ** 2 + 1, 64))
        self.ln_pre, self.ln_post = nn.LayerNorm(64), nn.LayerNorm(64)
        self.transformer = OpenBlocks(64, 2)
        self.proj = nn.Parameter(0.2 * torch.randn(64, 24))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        patches = self.conv1(pixels).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(patches), 1, -1)
        states = self.ln_pre(torch.cat([first, patches], dim=1) + self.positional_embedding)
        return self.ln_post(self.transformer(states, None)[:, 0]) @ self.proj


class OpenBlocks(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(OpenBlock(width, heads) for _ in range(2))

    def forward(self, states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        for block in self.resblocks:
            states = block(states, mask)
        return states


class OpenBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        steps = (("c_fc", nn.Linear(width, 4 * width)), ("gelu", nn.GELU()), ("c_proj", nn.Linear(4 * width, width)))
        self.mlp = nn.Sequential(OrderedDict(steps))

    def forward(self, states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        seen = self.ln_1(states)
        states = states + self.attn(seen, seen, seen, need_weights=False, attn_mask=mask)[0]
        return states + self.mlp(self.ln_2(states))


def make_open_clip(folder: Path) -> Path:
    """A folder of open_clip: its own configuration and weights, and a tokenizer of transformers."""
    tokenizer = clip_tokenizer()
    folder.mkdir(parents=True)
    save_file(shaken(lambda: OpenClip(len(tokenizer))).state_dict(), folder / "open_clip_model.safetensors")
    tokenizer.save_pretrained(folder)
    text = {"context_length": 77, "vocab_size": len(tokenizer), "width": 32, "heads": 4, "layers": 2}
    vision = {"image_size": SIDE, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32}
    pictures = {"mean": [0.48, 0.45, 0.4], "std": [0.26, 0.27, 0.28], "interpolation": "bicubic"}
    stated = {"model_cfg": {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}, "preprocess_cfg": pictures}
    (folder / "open_clip_config.json").write_text(json.dumps(stated))
    return folder


MAKERS: dict[str, Callable[[Path], Path]] = {
    "clip": make_clip,
    "siglip": make_siglip,
    "siglip2": make_siglip2,
    "xclip": make_xclip,
    "open_clip": make_open_clip,
    "blip": make_blip,
}
