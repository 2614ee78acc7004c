"""The tokenizer that a released checkpoint was trained with. The file does not bring it, so its files stand beside."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

from model_export.public.texts import Tokens, without_limits
from vitascope.errors import InvalidInput


class _Kind(NamedTuple):
    class_name: str
    files: tuple[str, ...]
    published: str
    """Where the authors took it from."""


_KINDS = {
    "clip": _Kind("CLIPTokenizer", ("vocab.json", "merges.txt"), "openai/clip-vit-base-patch32"),
    "bert": _Kind("BertTokenizer", ("vocab.txt",), "bert-base-uncased"),
}
_WRITTEN = "tokenizer.json"


def open_words(folder: Path, kind: Literal["clip", "bert"], vocabulary: int) -> Tokens:
    """The tokenizer of a folder, which has at most ``vocabulary`` numbers.

    Raises InvalidInput naming the files that are missing, and for one that does not fit the word embeddings.
    """
    import transformers

    wanted = _KINDS[kind]
    missing = [name for name in wanted.files if not (folder / name).is_file()]
    if missing and not (folder / _WRITTEN).is_file():
        raise InvalidInput(
            f"model: {folder} has no tokenizer: {' and '.join(missing)} missing; {_WRITTEN}, or "
            f"{' and '.join(wanted.files)}, of {wanted.published} was expected beside the weights"
        )
    opener: Any = getattr(transformers, wanted.class_name)
    try:
        library = opener.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the libraries behind it raise nearly anything
        raise InvalidInput(f"model: {folder}: its tokenizer cannot be opened: {error}") from error
    if len(library) > vocabulary:
        raise InvalidInput(
            f"model: {folder}: its tokenizer has {len(library)} tokens; at most {vocabulary} were expected, as many as "
            "the weights have word embeddings"
        )
    note = (
        f"Texts are read by {wanted.class_name} with the folder's files; the authors took those of {wanted.published}."
    )
    return Tokens(library, without_limits(library.backend_tokenizer.to_str()), [note])
