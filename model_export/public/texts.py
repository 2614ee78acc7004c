"""A public model's tokenizer as the bundle's `tokenizer.json`, and the padding that its text graph does for itself.

Shape letters: B texts, L tokens.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from model_export.public.folder import read_json
from model_export.public.pieces import PIECES_NAME, tokenizer_of_pieces
from vitascope.errors import InvalidInput

UNCOMPARED = "the package sentencepiece is not installed, so its token numbers were not compared with the original's."
_SETTINGS_NAME = "tokenizer_config.json"
_SIGLIP_LENGTH = 64
"""Tokens, where its folder does not say."""


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


class Tokens(NamedTuple):
    """A folder's tokenizer: as its library opens it, as the bundle's `tokenizer.json`, and what is to be said of it."""

    library: Any
    written: str
    notes: list[str]


def open_tokenizer(folder: Path) -> Tokens:
    """The tokenizer of a transformers folder. Raises InvalidInput."""
    if (folder / PIECES_NAME).is_file() and _class_of(folder).startswith("SiglipTokenizer"):
        return _siglip_tokenizer(folder)
    library = _opened(folder)
    backend = getattr(library, "backend_tokenizer", None)
    if backend is None:
        raise InvalidInput(
            f"model: {folder}: its tokenizer {type(library).__name__} has no tokenizer.json; one was expected"
        )
    return Tokens(library, without_limits(backend.to_str()), [])


def _siglip_tokenizer(folder: Path) -> Tokens:
    """Its own tokenizer runs on the package sentencepiece; without that, what is made of its pieces stands alone."""
    from transformers import PreTrainedTokenizerFast

    stated = read_json(folder / _SETTINGS_NAME)
    end = str(stated.get("eos_token", "</s>"))
    made = tokenizer_of_pieces(folder, lower_case=bool(stated.get("do_lower_case", True)), end=end)
    written = without_limits(made.to_str())
    if find_spec("sentencepiece"):
        return Tokens(_opened(folder), written, [])
    kind: Any = PreTrainedTokenizerFast
    alone = kind(
        tokenizer_object=made,
        eos_token=end,
        pad_token=str(stated.get("pad_token", end)),
        model_max_length=int(stated.get("model_max_length", _SIGLIP_LENGTH)),
        model_input_names=["input_ids"],
    )
    return Tokens(alone, written, [f"The tokenizer was made from {PIECES_NAME}; {UNCOMPARED}"])


def _class_of(folder: Path) -> str:
    path = folder / _SETTINGS_NAME
    return str(read_json(path).get("tokenizer_class", "")) if path.is_file() else ""


def _opened(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the libraries behind it raise nearly anything
        raise InvalidInput(f"model: {folder}: its tokenizer cannot be opened: {error}") from error


def without_limits(written: str) -> str:
    """A tokenizer.json that neither cuts nor pads."""
    stated = json.loads(written) | {"truncation": None, "padding": None}
    return json.dumps(stated, ensure_ascii=False)


def length_of(tokenizer: Any, positions: int) -> int:
    """The most tokens of a text: what the model has positions for, less where the tokenizer cuts earlier."""
    return min(positions, int(tokenizer.model_max_length))
