"""File lists and shards written by tests."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from index.jobs.sources.source_types import ShardsSource

ENDINGS = ("csv", "tsv", "jsonl", "parquet")


def write_list(folder: Path, ending: str, columns: dict[str, list[Any]]) -> Path:
    """A list of these columns; in Parquet with dictionaries, compressed, as hostile ones are."""
    file = folder / f"list.{ending}"
    if ending == "parquet":
        table = pa.table({name: pa.array(cells).dictionary_encode() for name, cells in columns.items()})
        parquet.write_table(table, file, compression="zstd")
        return file
    rows = list(zip(*columns.values(), strict=True))
    if ending == "jsonl":
        file.write_text("".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows))
        return file
    mark = "," if ending == "csv" else "\t"
    file.write_text("".join(mark.join(map(str, row)) + "\n" for row in (list(columns), *rows)))
    return file


def paths(count: int) -> list[str]:
    return [f"{number}.mp4" for number in range(count)]


def write_shard(file: Path, members: dict[str, bytes]) -> ShardsSource:
    with tarfile.open(file, "w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return ShardsSource((str(file),))
