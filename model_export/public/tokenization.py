"""Conversion of public models' tokenizers to the bundle's `tokenizer.json`, and padding inside their text graphs.

Shape letters: B texts, L tokens.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn

from model_export.assemble import TOKENIZER_NAME, read_json_object
from vitascope.errors import InvalidInput

PIECES_NAME = "spiece.model"
NOT_COMPARED = "the package sentencepiece is not installed, so token ids were not compared with the original's."
_CONFIG_NAME = "tokenizer_config.json"
_SIGLIP_LENGTH = 64
"""Default text length of SigLIP."""
_UNIGRAM = 1
"""Value of SentencePiece's `model_type` for unigram models."""
_PUNCTUATION = r"[!-/:-@\[-`{-~]"
"""ASCII punctuation, which SigLIP removes."""
_SPACE = "▁"


class _Kind(NamedTuple):
    class_name: str
    files: tuple[str, ...]
    source: str
    """Model on the Hugging Face hub whose tokenizer the authors of released checkpoints used."""


_RELEASED_KINDS = {
    "clip": _Kind("CLIPTokenizer", ("vocab.json", "merges.txt"), "openai/clip-vit-base-patch32"),
    "bert": _Kind("BertTokenizer", ("vocab.txt",), "bert-base-uncased"),
}


class Padding(nn.Module):
    """Replace masked tokens by the model's padding token, and pad or truncate to the model's length if it has one.

    So the runtime can pad with any token. input_ids, attention_mask (B, L) int64 -> ids (B, L) or (B, length).

    Args:
        token: Padding token of the model.
        length: Length of all texts, for models trained on one length; None: any length.
    """

    def __init__(self, token: int, length: int | None) -> None:
        super().__init__()
        self.token, self.length = token, length

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        ids = torch.where(attention_mask > 0, input_ids, self.token)
        if self.length is None:
            return ids
        padding = torch.full((ids.shape[0], self.length), self.token, dtype=ids.dtype)
        return torch.cat([ids, padding], dim=1)[:, : self.length]


class LoadedTokenizer(NamedTuple):
    """A tokenizer as an object of its library and as the content of `tokenizer.json`, and notes for the model card."""

    library: Any
    json: str
    notes: list[str]


def open_tokenizer(folder: Path) -> LoadedTokenizer:
    """Open the tokenizer in the folder of a transformers model.

    Raises:
        InvalidInput: The tokenizer cannot be opened or converted.
    """
    if (folder / PIECES_NAME).is_file() and _tokenizer_class(folder).startswith("SiglipTokenizer"):
        return _open_siglip(folder)
    library = _auto_tokenizer(folder)
    backend = getattr(library, "backend_tokenizer", None)
    if backend is None:
        raise InvalidInput(
            f"model: {folder}: its tokenizer {type(library).__name__} has no {TOKENIZER_NAME}; one was expected"
        )
    if len(library) <= len(library.all_special_ids):  # transformers opens a folder without a tokenizer as an empty one
        raise InvalidInput(f"model: {folder} has no tokenizer, or an empty one; {TOKENIZER_NAME} was expected")
    return LoadedTokenizer(library, _without_limits(backend.to_str()), [])


def open_released_tokenizer(folder: Path, kind: Literal["clip", "bert"], vocabulary: int) -> LoadedTokenizer:
    """Open the tokenizer in the folder of a released checkpoint.

    Args:
        folder: Folder of the checkpoint.
        kind: Kind of tokenizer.
        vocabulary: Maximum number of tokens: the number of word embeddings.

    Raises:
        InvalidInput: Files are missing, the tokenizer cannot be opened, or it has too many tokens.
    """
    import transformers

    expected = _RELEASED_KINDS[kind]
    missing = [name for name in expected.files if not (folder / name).is_file()]
    if missing and not (folder / TOKENIZER_NAME).is_file():
        raise InvalidInput(
            f"model: {folder} has no tokenizer: {' and '.join(missing)} missing; {TOKENIZER_NAME}, or "
            f"{' and '.join(expected.files)}, of {expected.source} was expected beside the weights"
        )
    tokenizer_class: Any = getattr(transformers, expected.class_name)
    try:
        library = tokenizer_class.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # various libraries raise various errors
        raise InvalidInput(f"model: {folder}: its tokenizer cannot be opened: {error}") from error
    if len(library) > vocabulary:
        raise InvalidInput(
            f"model: {folder}: its tokenizer has {len(library)} tokens; at most {vocabulary} were expected, the number "
            "of word embeddings in the weights"
        )
    note = f"Tokenizer: {expected.class_name} with the folder's files; the authors used those of {expected.source}."
    return LoadedTokenizer(library, _without_limits(library.backend_tokenizer.to_str()), [note])


def max_text_length(tokenizer: Any, positions: int) -> int:
    """Return the maximum number of tokens of a text: the tokenizer's limit, but at most the model's `positions`."""
    return min(positions, int(tokenizer.model_max_length))


def _open_siglip(folder: Path) -> LoadedTokenizer:
    """Convert SigLIP's tokenizer, whose implementation in transformers requires the package sentencepiece."""
    from transformers import PreTrainedTokenizerFast

    config = read_json_object("model", folder / _CONFIG_NAME)
    end = str(config.get("eos_token", "</s>"))
    converted = convert_sentencepiece(folder, lower_case=bool(config.get("do_lower_case", True)), end=end)
    tokenizer_json = _without_limits(converted.to_str())
    if find_spec("sentencepiece"):
        return LoadedTokenizer(_auto_tokenizer(folder), tokenizer_json, [])
    tokenizer_class: Any = PreTrainedTokenizerFast
    library = tokenizer_class(
        tokenizer_object=converted,
        eos_token=end,
        pad_token=str(config.get("pad_token", end)),
        model_max_length=int(config.get("model_max_length", _SIGLIP_LENGTH)),
        model_input_names=["input_ids"],
    )
    return LoadedTokenizer(library, tokenizer_json, [f"The tokenizer was made from {PIECES_NAME}; {NOT_COMPARED}"])


def convert_sentencepiece(folder: Path, *, lower_case: bool, end: str) -> Tokenizer:
    """Convert `spiece.model` with SigLIP's normalization, which removes punctuation and repeated spaces.

    Args:
        folder: Folder of the file.
        lower_case: Whether texts are lower-cased.
        end: Token that is appended to each text.

    Raises:
        InvalidInput: The file is not a unigram model, or has no piece `end`.
    """
    path = folder / PIECES_NAME
    proto = _read_sentencepiece(path)
    if proto.trainer_spec.model_type != _UNIGRAM:
        raise InvalidInput(f"model: {path}: a SentencePiece unigram model was expected")
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    tokenizer = Tokenizer(models.Unigram(pieces, proto.trainer_spec.unk_id, proto.trainer_spec.byte_fallback))
    charsmap = proto.normalizer_spec.precompiled_charsmap
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(_SPACE, " "),
            *([normalizers.Lowercase()] if lower_case else []),
            normalizers.Replace(Regex(_PUNCTUATION), ""),
            normalizers.Replace(Regex(r"\s+"), " "),
            *([normalizers.Precompiled(charsmap)] if charsmap else []),
            normalizers.Replace(Regex(" {2,}"), " "),
            normalizers.Strip(left=True, right=True),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, prepend_scheme="always")
    end_id = tokenizer.token_to_id(end)
    if end_id is None:
        raise InvalidInput(f"model: {path} has no piece {end!r}; the end of a text was expected")
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {end}", special_tokens=[(end, end_id)])
    return tokenizer


def _read_sentencepiece(path: Path) -> Any:
    from transformers import convert_slow_tokenizer

    library: Any = convert_slow_tokenizer
    proto = library.import_protobuf().ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except Exception as error:  # protobuf's error types differ by version
        raise InvalidInput(f"model: {path} cannot be read as a SentencePiece model: {error}") from error
    return proto


def _tokenizer_class(folder: Path) -> str:
    path = folder / _CONFIG_NAME
    return str(read_json_object("model", path).get("tokenizer_class", "")) if path.is_file() else ""


def _auto_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # various libraries raise various errors
        raise InvalidInput(f"model: {folder}: its tokenizer cannot be opened: {error}") from error


def _without_limits(tokenizer_json: str) -> str:
    """Return a tokenizer.json that neither truncates nor pads."""
    return json.dumps(json.loads(tokenizer_json) | {"truncation": None, "padding": None}, ensure_ascii=False)
