"""Recognition and caption settings of a collection, which are the defaults of its jobs; stored in the table meta."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Mapping
from typing import NamedTuple, TypedDict, Unpack

from index.collection import Collection
from index.records import check_text
from index.storage.queries import read_meta, write_meta
from vitascope.errors import InvalidInput
from vitascope.screen_text.interface import DEFAULT_INTERVAL, MAX_INTERVAL, MIN_INTERVAL

_MAX_MODEL_LENGTH = 1000
META_KEYS = ("transcribe", "read_text", "caption")
"""Keys in the table meta; the key of a setting that is off is missing."""


class RecognitionSettings(NamedTuple):
    """What is recognised in new videos, and whether captions are generated.

    Attributes:
        transcribe: speech model; ``DEFAULT_MODEL``: the model configured where the job runs; None: no speech.
        read_text: seconds between the frames whose text is read; None: no screen text.
        caption: whether the model of the collection generates a caption of each clip.
    """

    transcribe: str | None = None
    read_text: float | None = None
    caption: bool = False


class RecognitionChanges(TypedDict, total=False):
    """Changes of recognition settings in a request; None leaves a setting unchanged.

    ``transcribe``: a speech model; True: the configured model; False: off. ``read_text``: seconds; True:
    ``DEFAULT_INTERVAL``; False: off.
    """

    transcribe: str | bool | None
    read_text: float | bool | None
    caption: bool | None


def read_recognition_settings(collection: Collection) -> RecognitionSettings:
    """Return the settings of a collection. Raises CollectionNotFound and StorageError."""
    with collection.catalogue.read() as connection:
        stored = {key: read_meta(connection, key) for key in META_KEYS}
    return parse_recognition_meta({key: value for key, value in stored.items() if value is not None})


def write_recognition_settings(collection: Collection, settings: RecognitionSettings) -> None:
    """Store the settings of a collection, durably, for jobs that are created from now on. Raises InvalidInput."""
    model, interval, caption = check_recognition_settings(settings)
    values = (model, None if interval is None else repr(interval), "1" if caption else None)
    with collection.catalogue.write() as connection:
        for key, value in zip(META_KEYS, values, strict=True):
            write_meta(connection, key, value)


def parse_recognition_meta(meta: Mapping[str, str]) -> RecognitionSettings:
    """Return the settings in a table meta. Raises InvalidInput and ValueError."""
    model, interval, caption = (meta.get(key) for key in META_KEYS)
    if caption not in (None, "1"):
        raise InvalidInput(f"caption: {caption!r}; 1 was expected")
    seconds = None if interval is None else float(interval)
    return check_recognition_settings(RecognitionSettings(model, seconds, caption is not None))


def copy_recognition_meta(source: sqlite3.Connection, target: sqlite3.Connection) -> None:
    """Copy the settings of one catalogue to another one."""
    for key in META_KEYS:
        write_meta(target, key, read_meta(source, key))


def merge_settings(defaults: RecognitionSettings, **changes: Unpack[RecognitionChanges]) -> RecognitionSettings:
    """Return ``defaults`` with the changes of a request. Raises InvalidInput."""
    model, interval, caption = defaults
    if (transcribe := changes.get("transcribe")) is not None:
        from vitascope.sandbox.recognizers import DEFAULT_MODEL  # imports PyAV, which searches do not need

        model = (DEFAULT_MODEL if transcribe else None) if isinstance(transcribe, bool) else transcribe
    if (read_text := changes.get("read_text")) is not None:
        interval = (DEFAULT_INTERVAL if read_text else None) if isinstance(read_text, bool) else float(read_text)
    if (chosen := changes.get("caption")) is not None:
        caption = chosen
    return check_recognition_settings(RecognitionSettings(model, interval, caption))


def check_recognition_settings(settings: RecognitionSettings) -> RecognitionSettings:
    """Return the settings. Raises InvalidInput that names the key."""
    model, interval, _ = settings
    if model is not None and not check_text("transcribe", model, _MAX_MODEL_LENGTH).strip():
        raise InvalidInput(f"transcribe: {model!r}; the name of a speech model was expected")
    if interval is not None and not (math.isfinite(interval) and MIN_INTERVAL <= interval <= MAX_INTERVAL):
        raise InvalidInput(f"read_text: {interval}; {MIN_INTERVAL:g} to {MAX_INTERVAL:g} seconds were expected")
    return settings
