"""A public model's tokeniser as the bundle's `tokenizer.json`, and the padding that its text graph does for itself.

Shape letters: B texts, L tokens.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitascope.errors import InvalidInput


class Padding(nn.Module):
    """input_ids, attention_mask (B, L) int64 -> ids (B, L), or (B, length) where a model was trained on one length.

    Every token that the mask does not show becomes the model's own padding, so that the runtime may pad as it likes.
    """

    def __init__(self, token: int, length: int | None) -> None:
        super().__init__()
        self.token, self.length = token, length

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        ids = torch.where(attention_mask > 0, input_ids, self.token)
        if self.length is None:
            return ids
        rest = torch.full((ids.shape[0], self.length), self.token, dtype=ids.dtype)
        return torch.cat([ids, rest], dim=1)[:, : self.length]


def open_tokenizer(folder: Path) -> Any:
    """The folder's tokeniser, as transformers opens it. Raises InvalidInput."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the libraries behind it raise nearly anything
        raise InvalidInput(f"model: {folder}: its tokeniser cannot be opened: {error}") from error


def tokenizer_json(tokenizer: Any, folder: Path) -> str:
    """What `tokenizers` reads, without padding and truncation, which are the runtime's. Raises InvalidInput."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise InvalidInput(
            f"model: {folder}: its tokeniser {type(tokenizer).__name__} has no tokenizer.json; one was expected"
        )
    return without_limits(backend.to_str())


def without_limits(written: str) -> str:
    """A tokenizer.json that neither cuts nor pads."""
    stated = json.loads(written) | {"truncation": None, "padding": None}
    return json.dumps(stated, ensure_ascii=False)


def length_of(tokenizer: Any, positions: int) -> int:
    """The most tokens of a text: what the model has positions for, less where the tokeniser cuts earlier."""
    return min(positions, int(tokenizer.model_max_length))
