"""Sentences of the Flickr corpora as their authors distribute them: Flickr8k and Flickr30k have one format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from training.data.errors import CorpusError
from training.data.text_file import numbered_lines


def captions_by_id(path: Path) -> dict[str, str]:
    """{"KEY#0": sentence, ...} of a token file: IMAGE.jpg#NUMBER, a tab, the sentence. Raises CorpusError."""
    captions: dict[str, str] = {}
    for number, line in numbered_lines(path):
        identifier, tab, caption = line.partition("\t")
        image, mark, index = identifier.partition("#")
        if not (tab and caption.strip()):
            raise CorpusError(
                f"{path}:{number}: sentence: none in {line[:60]!r}; IMAGE.jpg#N, a tab, a sentence expected"
            )
        if not (mark and index.isdigit()):
            raise CorpusError(f"{path}:{number}: image: {identifier[:60]!r}; IMAGE.jpg#N was expected")
        add_caption(captions, f"{image_key(image)}#{index}", caption.strip(), f"{path}:{number}")
    return captions


def add_caption(captions: dict[str, str], caption_id: str, caption: str, where: str) -> None:
    """Add to {"KEY#0": sentence, ...}. Raises CorpusError, beginning with `where`, when it has another one."""
    if captions.setdefault(caption_id, caption) != caption:
        raise CorpusError(f"{where}: image: {caption_id!r} has occurred with another sentence; one was expected")


def captions_by_image(captions: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """{"KEY": its sentences in order} of {"KEY#0": sentence, ...}."""
    sentences: dict[str, list[str]] = {}
    for caption_id, caption in captions.items():
        sentences.setdefault(caption_id.partition("#")[0], []).append(caption)
    return {key: tuple(of_image) for key, of_image in sentences.items()}


def image_key(image: str) -> str:
    """The name of an image's file without what follows it."""
    # One image of Flickr8k's token file is called 2258277193_586949ec62.jpg.1.
    return image.partition(".jpg")[0]
