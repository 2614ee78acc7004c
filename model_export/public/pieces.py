"""SigLIP's own tokenizer (a SentencePiece model and what is done to a text before it) as a `tokenizer.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from vitascope.errors import InvalidInput

PIECES_NAME = "spiece.model"
_UNIGRAM = 1
"""SentencePiece's number of that kind of model."""
_MARKS = r"[!-/:-@\[-`{-~]"
"""ASCII punctuation, which SigLIP leaves out of texts."""
_SPACE = "▁"


def tokenizer_of_pieces(folder: Path, *, lower_case: bool, end: str) -> Tokenizer:
    """The tokenizer behind ``spiece.model``: marks left out, white space made one space, ``end`` after each text.

    Raises InvalidInput for another kind of SentencePiece model.
    """
    stated = _read(folder / PIECES_NAME)
    if stated.trainer_spec.model_type != _UNIGRAM:
        raise InvalidInput(f"model: {folder / PIECES_NAME}: a SentencePiece model of unigrams was expected")
    pieces = [(piece.piece, piece.score) for piece in stated.pieces]
    made = Tokenizer(models.Unigram(pieces, stated.trainer_spec.unk_id, stated.trainer_spec.byte_fallback))
    charsmap = stated.normalizer_spec.precompiled_charsmap
    made.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(_SPACE, " "),
            *([normalizers.Lowercase()] if lower_case else []),
            normalizers.Replace(Regex(_MARKS), ""),
            normalizers.Replace(Regex(r"\s+"), " "),
            *([normalizers.Precompiled(charsmap)] if charsmap else []),
            normalizers.Replace(Regex(" {2,}"), " "),
            normalizers.Strip(left=True, right=True),
        ]
    )
    made.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, prepend_scheme="always")
    number = made.token_to_id(end)
    if number is None:
        raise InvalidInput(f"model: {folder / PIECES_NAME} has no piece {end!r}; the end of a text was expected")
    made.post_processor = processors.TemplateProcessing(single=f"$A {end}", special_tokens=[(end, number)])
    return made


def _read(path: Path) -> Any:
    from transformers import convert_slow_tokenizer

    library: Any = convert_slow_tokenizer
    proto = library.import_protobuf().ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except Exception as error:  # protobuf's errors differ by its version
        raise InvalidInput(f"model: {path} cannot be read as a SentencePiece model: {error}") from error
    return proto
