"""Forward passes of CLIP-ViP, HD-VILA and SOHO after their papers and published programs, on the weights of their
files, without modules of this project.

Shape letters: N samples, F frames, H W pixels, Y X grid, V visual tokens, L tokens, D width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = Mapping[str, Tensor]
HEAD = 64
IMAGENET = (torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375]))
OPENAI = (torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711]))


def clip_vip_video(w: Weights, frames: Tensor) -> Tensor:
    """uint8 (N, F, H, W, 3) -> (N, D) of length 1. One softmax over all tokens, with a mask."""
    at = "clipmodel.vision_model"
    pixels = ((frames.float() / 255 - OPENAI[0]) / OPENAI[1]).permute(0, 1, 4, 2, 3)
    samples, count = pixels.shape[:2]
    kernel, positions = (w[f"{at}.embeddings.{name}.weight"] for name in ("patch_embedding", "position_embedding"))
    time = w[f"{at}.embeddings.temporal_embedding"][0]
    rows = []
    for sample in range(samples):
        first = [w[f"{at}.embeddings.class_embedding"][None], w[f"{at}.embeddings.added_cls"]]
        row = [torch.cat(first) + positions[0]]
        for number in range(count):
            patches = F.conv2d(pixels[sample, number : number + 1], kernel, stride=kernel.shape[-1])[0]
            row.append(patches.flatten(1).T + positions[1:] + time[number])
        rows.append(torch.cat(row))
    x = torch.stack(rows)
    proxies, patches_each = 1 + len(w[f"{at}.embeddings.added_cls"]), len(positions) - 1
    frame_of = torch.tensor([-1] * proxies + [n for n in range(count) for _ in range(patches_each)])
    visible = (frame_of[:, None] == -1) | (frame_of[None, :] == -1) | (frame_of[:, None] == frame_of[None, :])
    x = _clip_layers(w, at, _norm(w, f"{at}.pre_layrnorm", x, 1e-5), visible)
    pooled = _norm(w, f"{at}.post_layernorm", x[:, 0], 1e-5)
    return F.normalize(_linear(w, "clipmodel.visual_projection", pooled), dim=-1)


def clip_vip_text(w: Weights, ids: Tensor) -> Tensor:
    """(N, L), padded as by the authors -> (N, D) of length 1: the state at the largest id."""
    at, length = "clipmodel.text_model", ids.shape[1]
    x = w[f"{at}.embeddings.token_embedding.weight"][ids] + w[f"{at}.embeddings.position_embedding.weight"][:length]
    x = _clip_layers(w, at, x, torch.ones(length, length).tril().bool())
    x = _norm(w, f"{at}.final_layer_norm", x, 1e-5)
    last = x[torch.arange(len(ids)), ids.argmax(dim=1)]
    return F.normalize(_linear(w, "clipmodel.text_projection", last), dim=-1)


def hd_vila_maps(w: Weights, high: Tensor, low: Tensor) -> Tensor:
    """uint8 high (N, 1, H, W, 3) and low (N, F - 1, H', W', 3), cropped -> the middle frame's map (N, D, Y, X)."""
    normalized = [((frames.float() - IMAGENET[0]) / IMAGENET[1]).permute(0, 1, 4, 2, 3) for frames in (high, low)]
    samples, neighbours = low.shape[:2]
    fine = _resnet(w, "cnn", normalized[0].flatten(0, 1))
    detail = F.gelu(F.max_pool2d(F.conv2d(fine[3], w["grid_encoder.0.weight"]), 2))
    coarse = F.interpolate(fine[2], scale_factor=1 / 4, recompute_scale_factor=False)
    middle = F.gelu(F.conv2d(coarse, w["grid_encoder_low.0.weight"]))
    around = _resnet(w, "cnn_low", normalized[1].flatten(0, 1))[2]
    around = F.gelu(F.conv2d(around, w["grid_encoder_low.0.weight"])).unflatten(0, (samples, neighbours))
    half = (neighbours + 1) // 2
    frames = torch.cat([around[:, :half], middle[:, None], around[:, half:]], dim=1)
    encoded = _timesformer(w, frames)[:, half]
    return F.gelu(F.conv2d(torch.cat([detail, encoded], dim=1), w["grid_encoder_combine.0.weight"]))


def hd_vila_video(w: Weights, maps: Tensor) -> Tensor:
    """Maps of one clip each (N, D, Y, X) -> (N, D) of length 1."""
    return F.normalize(_linear(w, "transformer.v_proj", maps.mean(dim=(2, 3))), dim=-1)


def hd_vila_text(w: Weights, ids: Tensor, mask: Tensor, layers: int) -> Tensor:
    """(N, L) -> (N, D) of length 1, after the first ``layers`` layers."""
    x = hd_vila_words(w, ids, mask, layers)
    mean = (x * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
    pooled = torch.tanh(_linear(w, "transformer.bert.pooler1.dense", mean))
    return F.normalize(_linear(w, "transformer.t_proj", pooled), dim=-1)


def hd_vila_words(w: Weights, ids: Tensor, mask: Tensor, layers: int) -> Tensor:
    return _bert_layers(w, "transformer.bert", _bert_words(w, "transformer.bert", ids), mask, range(layers))


def hd_vila_answers(w: Weights, ids: Tensor, mask: Tensor, maps: Tensor, split: int, layers: int) -> Tensor:
    """(N, L) and maps (N, D, Y, X) -> (N, answers)."""
    at = "transformer.bert.visual_embeddings"
    _, _, rows, columns = maps.shape
    grid = maps.permute(0, 2, 3, 1) + w[f"{at}.row_position_embeddings.weight"][:rows, None]
    grid = grid + w[f"{at}.col_position_embeddings.weight"][:columns]
    tokens = _norm(w, f"{at}.LayerNorm", grid.flatten(1, 2) + w[f"{at}.token_type_embeddings.weight"][0], 1e-12)
    x = torch.cat([hd_vila_words(w, ids, mask, split), tokens], dim=1)
    joint_mask = torch.cat([mask, torch.ones(tokens.shape[:2], dtype=mask.dtype)], dim=1)
    x = _bert_layers(w, "transformer.bert", x, joint_mask, range(split, layers))
    pooled = torch.tanh(_linear(w, "transformer.bert.pooler2.dense", x[:, 0]))
    return _linear(w, "transformer.classifier.2", F.relu(_linear(w, "transformer.classifier.0", pooled)))


def soho_tokens(w: Weights, image: Tensor) -> Tensor:
    """uint8 (N, H, W, 3) -> visual tokens (N, V, D) without positions. Images are normalized, then padded."""
    pixels = ((image.float() - IMAGENET[0]) / IMAGENET[1]).permute(0, 3, 1, 2)
    bottom, right = (-side % 32 for side in image.shape[1:3])
    maps = F.max_pool2d(_resnet(w, "backbone", F.pad(pixels, (0, right, 0, bottom)))[3], 2, stride=2)
    features = _batch_norm(w, "neck.conv.bn", F.conv2d(maps, w["neck.conv.conv.weight"]))
    if "neck.vq.embed" not in w:
        return features.flatten(2).transpose(1, 2)
    flat = features.permute(0, 2, 3, 1).flatten(0, 2)
    nearest = torch.cdist(flat, w["neck.vq.embed"]).argmin(dim=1)
    entries = _linear(w, "neck.pos_line", w["neck.vq.embed"][nearest])
    entries = entries.reshape(len(features), *features.shape[2:], -1).permute(0, 3, 1, 2)
    both = F.conv2d(torch.cat([entries, features], dim=1), w["neck.gate_fc.conv.weight"])
    shares = _batch_norm(w, "neck.gate_fc.bn", both).softmax(dim=1)
    return (entries * shares[:, :1] + features * shares[:, 1:]).flatten(2).transpose(1, 2)


def soho_first(w: Weights, ids: Tensor, mask: Tensor, tokens: Tensor, grid: tuple[int, int], layers: int) -> Tensor:
    """(N, L) and visual tokens (N, V, D) -> the first state (N, D)."""
    positioned = _norm(w, "neck.ln", tokens + _sine_positions(*grid, tokens.shape[2]), 1e-5)
    x = torch.cat([_bert_words(w, "language.bert", ids), positioned], dim=1)
    joint_mask = torch.cat([mask, torch.ones(tokens.shape[:2], dtype=mask.dtype)], dim=1)
    return _bert_layers(w, "language.bert", x, joint_mask, range(layers))[:, 0]


def soho_match(w: Weights, first: Tensor) -> Tensor:
    """(N, D) -> the logit (N,) whose sigmoid is the probability of class 1."""
    return torch.logit(_linear(w, "head.match_class", first).softmax(dim=-1)[:, 1])


def soho_answers(w: Weights, first: Tensor) -> Tensor:
    return _linear(w, "head.vqa.3", F.relu(_linear(w, "head.vqa.0", first)))


def _sine_positions(rows: int, columns: int, width: int) -> Tensor:
    half = width // 2
    positions = torch.zeros(rows, columns, width)
    for row in range(rows):
        for column in range(columns):
            for part, angle in ((0, (row + 1) / rows), (half, (column + 1) / columns)):
                for number in range(half):
                    value = angle * 2 * math.pi / 10_000 ** (2 * (number // 2) / half)
                    positions[row, column, part + number] = math.cos(value) if number % 2 else math.sin(value)
    return positions.flatten(0, 1)


def _timesformer(w: Weights, frames: Tensor) -> Tensor:
    """(N, F, D, Y, X) -> (N, F, D, Y, X). It ends without a norm."""
    samples, count, width, rows, columns = frames.shape
    x = frames.flatten(3).permute(0, 3, 1, 2)  # (N, V, F, D)
    x = x + w["timesformer.pos_embed"][0][:, None] + w["timesformer.time_embed"][0]
    blocks = sorted({name.split(".")[2] for name in w if name.startswith("timesformer.blocks.")})
    for at in (f"timesformer.blocks.{number}" for number in blocks):
        by_time = _norm(w, f"{at}.temporal_norm1", x, 1e-6).flatten(0, 1)
        by_time = _linear(w, f"{at}.temporal_fc", _joint_attention(w, f"{at}.temporal_attn", by_time))
        x = x + by_time.unflatten(0, (samples, -1))
        by_space = _norm(w, f"{at}.norm1", x, 1e-6).transpose(1, 2).flatten(0, 1)
        by_space = _joint_attention(w, f"{at}.attn", by_space).unflatten(0, (samples, count))
        x = x + by_space.transpose(1, 2)
        x = x + _linear(w, f"{at}.mlp.fc2", F.gelu(_linear(w, f"{at}.mlp.fc1", _norm(w, f"{at}.norm2", x, 1e-6))))
    return x.permute(0, 2, 3, 1).reshape(samples, count, width, rows, columns)


def _joint_attention(w: Weights, at: str, x: Tensor) -> Tensor:
    queries, keys, values = _linear(w, f"{at}.qkv", x).chunk(3, dim=-1)
    return _linear(w, f"{at}.proj", _attention(queries, keys, values, None))


def _attention(queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor | None) -> Tensor:
    """(N, L, D) each, head by head; ``visible``: bool, (L, L) or (N, L, L)."""
    out = []
    for head in range(queries.shape[-1] // HEAD):
        part = slice(head * HEAD, (head + 1) * HEAD)
        scores = queries[..., part] @ keys[..., part].transpose(-1, -2) / math.sqrt(HEAD)
        if visible is not None:
            scores = scores.masked_fill(~visible, float("-inf"))
        out.append(scores.softmax(dim=-1) @ values[..., part])
    return torch.cat(out, dim=-1)


def _clip_layers(w: Weights, prefix: str, x: Tensor, visible: Tensor) -> Tensor:
    layers = sorted({name.split(".")[4] for name in w if name.startswith(f"{prefix}.encoder.layers.")})
    for at in (f"{prefix}.encoder.layers.{number}" for number in layers):
        normed = _norm(w, f"{at}.layer_norm1", x, 1e-5)
        parts = [_linear(w, f"{at}.self_attn.{part}_proj", normed) for part in "qkv"]
        x = x + _linear(w, f"{at}.self_attn.out_proj", _attention(*parts, visible))
        inner = _linear(w, f"{at}.mlp.fc1", _norm(w, f"{at}.layer_norm2", x, 1e-5))
        x = x + _linear(w, f"{at}.mlp.fc2", inner * torch.sigmoid(1.702 * inner))
    return x


def _bert_words(w: Weights, prefix: str, ids: Tensor) -> Tensor:
    at = f"{prefix}.embeddings"
    x = w[f"{at}.word_embeddings.weight"][ids] + w[f"{at}.position_embeddings.weight"][: ids.shape[1]]
    return _norm(w, f"{at}.LayerNorm", x + w[f"{at}.token_type_embeddings.weight"][0], 1e-12)


def _bert_layers(w: Weights, prefix: str, x: Tensor, mask: Tensor, layers: range) -> Tensor:
    visible = mask[:, None].bool().expand(-1, mask.shape[1], -1)
    for at in (f"{prefix}.encoder.layer.{number}" for number in layers):
        parts = [_linear(w, f"{at}.attention.self.{part}", x) for part in ("query", "key", "value")]
        attended = _linear(w, f"{at}.attention.output.dense", _attention(*parts, visible))
        x = _norm(w, f"{at}.attention.output.LayerNorm", x + attended, 1e-12)
        inner = _linear(w, f"{at}.output.dense", F.gelu(_linear(w, f"{at}.intermediate.dense", x)))
        x = _norm(w, f"{at}.output.LayerNorm", x + inner, 1e-12)
    return x


def _resnet(w: Weights, prefix: str, pixels: Tensor) -> list[Tensor]:
    """Basic blocks: the maps of the four stages."""
    x = F.conv2d(pixels, w[f"{prefix}.conv1.weight"], stride=2, padding=3)
    x = F.max_pool2d(F.relu(_batch_norm(w, f"{prefix}.bn1", x)), 3, stride=2, padding=1)
    maps = []
    for stage in (1, 2, 3, 4):
        for block in (0, 1):
            at, stride = f"{prefix}.layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = F.conv2d(x, w[f"{at}.conv1.weight"], stride=stride, padding=1)
            y = F.conv2d(F.relu(_batch_norm(w, f"{at}.bn1", y)), w[f"{at}.conv2.weight"], padding=1)
            if f"{at}.downsample.0.weight" in w:
                shorter = F.conv2d(x, w[f"{at}.downsample.0.weight"], stride=stride)
                x = _batch_norm(w, f"{at}.downsample.1", shorter)
            x = F.relu(_batch_norm(w, f"{at}.bn2", y) + x)
        maps.append(x)
    return maps


def _linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))


def _norm(w: Weights, name: str, x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)


def _batch_norm(w: Weights, name: str, x: Tensor) -> Tensor:
    stored = (w[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, *stored)
