"""Sources of indexing jobs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from service.schemas.base import Request, Response, example

Path = Annotated[str, Field(min_length=1, max_length=4096)]
Url = Annotated[str, Field(min_length=1, max_length=4096, description="https://… or below an allowed URL")]
Column = Annotated[str, Field(min_length=1, max_length=128)]

FOLDER = {"kind": "folder", "folder": "/videos/holidays", "recursive": True}


class FolderSource(Request):
    """All files of a folder."""

    model_config = example(**FOLDER)

    kind: Literal["folder"]
    folder: Annotated[Path, Field(description="in an allowed root; relative: below incoming/")]
    recursive: Annotated[bool, Field(description="including subfolders")] = True


class FilesSource(Request):
    """A list of files."""

    model_config = example(kind="files", files=["/videos/holidays/beach.mp4"])

    kind: Literal["files"]
    files: Annotated[list[Path], Field(min_length=1, max_length=10_000, description="in an allowed root")]


class ListSource(Request):
    """A CSV, TSV, JSON Lines or Parquet file with a row for each video; further columns become metadata."""

    model_config = example(kind="list", file="/videos/films.csv", path_column="path", title_column="title")

    kind: Literal["list"]
    file: Annotated[Path, Field(description="in an allowed root, like the paths in it")]
    path_column: Annotated[Column, Field(description="paths, relative ones below the list's folder, or URLs")] = "path"
    title_column: Annotated[Column, Field(description="titles, if there are any")] = "title"


class ShardsSource(Request):
    """WebDataset shards: tar archives of media files with JSON and text files."""

    model_config = example(kind="shards", shards=["/videos/shard-000000.tar"])

    kind: Literal["shards"]
    shards: Annotated[list[Path], Field(min_length=1, max_length=10_000, description="in an allowed root")]


class UrlSource(Request):
    """A file, all files below a folder, or those that match a pattern with `*`, by an fsspec URL below an allowed one;
    or, where the service fetches such, one file at any public host.
    """

    model_config = example(kind="url", url="s3://bucket/videos/")

    kind: Literal["url"]
    url: Url
    title: Annotated[str | None, Field(max_length=500, description="of a single file")] = None


class UploadSource(Response):
    """An uploaded file. Only in responses: uploads create such jobs."""

    model_config = example(kind="upload", file="beach.mp4", title="beach")

    kind: Literal["upload"]
    file: Annotated[str, Field(description="its name at the client")]
    title: str


Source = Annotated[FolderSource | FilesSource | ListSource | ShardsSource | UrlSource, Field(discriminator="kind")]
JobSource = Annotated[
    FolderSource | FilesSource | ListSource | ShardsSource | UrlSource | UploadSource, Field(discriminator="kind")
]
