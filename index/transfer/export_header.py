"""The header of the Parquet files of an export: the exported collection and its bundle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from index.storage.fulltext import Stemming, check_stemming
from vitascope.errors import InvalidInput
from vitascope.visual_token_codec import TokenEncoding, check_encoding

FORMAT = "1"
_PREFIX = "vitascope."


@dataclass(frozen=True, slots=True)
class ExportHeader:
    """The schema metadata of both files, under keys that begin with ``vitascope.``.

    Attributes:
        export: id of the export, equal in both files.
        collection: name of the collection.
        bundle: name of the bundle that computed the embeddings.
        fingerprint: fingerprint of the bundle.
        vector_width: D, embedding dim.
        visual_tokens: V, visual tokens of a clip.
        visual_width: W, width of a visual token.
        audio_tokens: T, audio tokens of a clip with sound; 0 (also in exports of earlier versions): not stored.
        audio_width: A, width of an audio token.
        token_encoding: encoding of the tokens.
        exported_at: Unix seconds.
        stemming: stemming of words in searches; missing in exports of earlier versions.
    """

    export: str
    collection: str
    bundle: str
    fingerprint: str
    vector_width: int
    visual_tokens: int
    visual_width: int
    audio_tokens: int
    audio_width: int
    token_encoding: TokenEncoding
    exported_at: float
    stemming: Stemming

    def to_metadata(self) -> dict[str, str]:
        """Return the header as schema metadata."""
        values = {name: str(getattr(self, name)) for name in self.__slots__}
        return {f"{_PREFIX}{name}": value for name, value in {"format": FORMAT, **values}.items()}

    @classmethod
    def from_metadata(cls, file: str, metadata: dict[bytes, bytes] | None) -> Self:
        """Parse the header from the schema metadata of ``file``. Raises InvalidInput that names the key."""
        pairs = (metadata or {}).items()
        stored = {f"{_PREFIX}stemming": "english", f"{_PREFIX}audio_tokens": "0", f"{_PREFIX}audio_width": "0"}
        stored |= {key.decode("utf-8", "replace"): value.decode("utf-8", "replace") for key, value in pairs}
        fields = {name: stored.get(_PREFIX + name) for name in ("format", *cls.__slots__)}
        for name, value in fields.items():
            if value is None:
                raise InvalidInput(f"{file}: no {_PREFIX}{name} in its metadata; an exported collection was expected")
        if (version := fields.pop("format")) != FORMAT:
            raise InvalidInput(f"{file}: {_PREFIX}format: {version!r}; {FORMAT!r} was expected")
        values: dict[str, Any] = dict(fields)
        for name, parse in (
            ("vector_width", int),
            ("visual_tokens", int),
            ("visual_width", int),
            ("audio_tokens", int),
            ("audio_width", int),
            ("exported_at", float),
            ("token_encoding", check_encoding),
            ("stemming", check_stemming),
        ):
            try:
                values[name] = parse(values[name])
            except (ValueError, InvalidInput) as error:
                raise InvalidInput(f"{file}: {_PREFIX}{name}: {error}") from error
        return cls(**values)
