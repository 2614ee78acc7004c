"""WebDataset shards of media from the web with a caption each, as img2dataset and video2dataset write them.

00000.tar, 00001.tar ...: for every KEY its medium, KEY.txt (the caption) and KEY.json {"caption", "url", ...}. The
caption is that of KEY.txt, or of KEY.json where the former is absent or blank. Other members are passed over. What
could not be downloaded is not in the shards. The names hold no split, so it is by rule (training.data.hash_split).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from training.data.errors import CorpusError
from training.data.hash_split import check_split, split_of
from training.data.json_file import Record, object_of, text_or_blank
from training.data.left_out import warn_of
from training.data.webdataset import EncodedMedia, shard_entries


@dataclass(frozen=True)
class Captioned:
    """One key with its caption; `record` is what KEY.json says."""

    key: str
    caption: str
    media: EncodedMedia
    record: Record


def captioned_entries(
    folder: Path, split: str, extensions: Sequence[str], unit: Callable[[str], str] = str
) -> Iterator[Captioned]:
    """Every captioned key of a split, shard by shard; the medium is the first of `extensions` that it has.

    `unit` gives what the split goes by, of a key. A key without a medium comes with an empty one: packing names
    it as skipped. Keys without a caption are left out and logged as a warning. Raises CorpusError naming shard
    and member.
    """
    check_split(split)
    extensions_read = {*extensions, "txt", "json"}
    without_caption: list[str] = []
    keys: set[str] = set()
    for shard in _numbered_shards(folder):
        for key, parts in shard_entries(
            shard, lambda key, ext: ext in extensions_read and split_of(unit(key)) == split
        ):
            if key in keys:
                raise CorpusError(f"{shard}: {key}: one that has not occurred before was expected")
            keys.add(key)
            record = object_of(f"{shard}: {key}.json: ", parts.get("json", b"{}"))
            caption = _caption(shard, key, parts, record)
            if not caption:
                without_caption.append(key)
                continue
            extension = next((extension for extension in extensions if extension in parts), extensions[0])
            yield Captioned(key, caption, EncodedMedia(f"{key}.{extension}", parts.get(extension, b"")), record)
    warn_of(folder, split, "without a caption are left out", without_caption)


def _numbered_shards(folder: Path) -> list[Path]:
    shards = [path for path in folder.glob("*.tar") if path.stem.isdecimal()]
    if not shards:
        raise CorpusError(f"{folder}: no shard; 00000.tar, 00001.tar and so on were expected")
    return sorted(shards, key=lambda path: int(path.stem))


def _caption(shard: Path, key: str, parts: Mapping[str, bytes], record: Record) -> str:
    try:
        caption = parts.get("txt", b"").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{shard}: {key}.txt: {error}; UTF-8 was expected") from None
    if not caption.strip() and record.fields.get("caption"):
        return text_or_blank(record, "caption", "a sentence")
    return " ".join(caption.split())
