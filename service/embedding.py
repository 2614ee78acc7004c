"""Vectors of texts, pictures and videos that come with a request.

Shape letters: N inputs, D vector width.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import re
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
import orjson

from service.app_state import Service
from service.http.multipart import Upload
from service.http.parameters import at_most
from service.inference.clip_embedding import Part, check_text, look_at_upload
from service.inference.loaded_model import Loaded
from service.inference.request_context import Turn
from service.inference.text_cache import TextKey, TextVector, made, put_together, text_keys
from service.schemas.embeddings import EmbeddingOptions, EmbeddingRequest, MediaInput, TextInput
from vitascope.errors import InvalidInput, StorageError, TaskMissing
from vitascope.model import Floats, Model

PIECE = 4
"""Texts of one call: few, so that the scheduler puts them together with those of the same length of other requests."""
AHEAD = 16
"""Calls of one request that wait for the model at once: enough that it never idles, and others get in between."""
FEW_VECTORS = 32
"""Written to JSON on the event loop; a thread would cost more than that."""
FEW_CHARACTERS = 4096
"""Tokenised on the event loop, likewise."""
_DATA_URL = re.compile(r"data:[^,;]*(?:;[^,;]*)*;base64,", re.IGNORECASE)


def embedder(service: Service, asked: EmbeddingOptions) -> Loaded:
    """The model to embed with: the one that is named, else the default.

    Raises ModelNotFound, NotReady, TaskMissing where it has no vectors of texts to compare with, and InvalidInput for
    vectors of another width.
    """
    loaded = service.models.named(asked.model)
    stated = loaded.bundle.manifest
    if "retrieval" not in stated.tasks:
        raise TaskMissing(f"{stated.name}: it cannot embed; its tasks are {', '.join(stated.tasks)}")
    if asked.dimensions not in (None, stated.vector_width):
        raise InvalidInput(
            f"dimensions: {asked.dimensions}; {stated.vector_width} was expected: vectors of {stated.name} have that "
            "many numbers, and are not shortened"
        )
    return loaded


def check_inputs(service: Service, asked: EmbeddingRequest) -> None:
    """Raise InvalidInput and TextError for inputs that cannot be embedded, before any is."""
    at_most("input", len(asked.input), service.settings.max_inputs)
    for number, one in enumerate(asked.input):
        if not isinstance(one, MediaInput):
            check_text(service, f"input[{number}]", _text(one))


async def embed_inputs(
    service: Service, mine: Turn, loaded: Loaded, inputs: Sequence[str | TextInput | MediaInput]
) -> tuple[Floats, int]:
    """(vectors (N, D), tokens that were read). Raises media errors and what ``Turn`` raises."""
    texts = {n: _text(one) for n, one in enumerate(inputs) if not isinstance(one, MediaInput)}
    media = {n: one for n, one in enumerate(inputs) if isinstance(one, MediaInput)}
    vectors = np.empty((len(inputs), loaded.bundle.manifest.vector_width), np.float32)
    tokens = 0
    if texts:
        vectors[list(texts)], tokens = await embed_texts(service, mine, loaded, list(texts.values()))
    for number, one in media.items():
        vectors[number] = await mine.run(_embed_media, service, mine, mine.model(loaded), f"input[{number}]", one)
    return vectors, tokens


def written(vectors: Floats, tokens: int, loaded: Loaded, encoding: str) -> bytes:
    """The answer as JSON, in OpenAI's shape, and whose vectors they are."""
    data = [
        {"object": "embedding", "index": number, "embedding": _encoded(vector) if encoding == "base64" else vector}
        for number, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    whose = {"model": loaded.name, "fingerprint": loaded.fingerprint}
    return orjson.dumps({"object": "list", "data": data, **whose, "usage": usage}, option=orjson.OPT_SERIALIZE_NUMPY)


async def embed_texts(service: Service, mine: Turn, loaded: Loaded, texts: Sequence[str]) -> tuple[Floats, int]:
    """As ``caching.texts.embed_texts``, without a thread that waits; and the tokens that were read."""
    cache = service.caches.texts
    keys = text_keys(loaded.model, texts)
    found: dict[TextKey, TextVector] = {}
    async with mine.time_left():
        while wanted := [key for key in dict.fromkeys(keys) if key not in found]:
            with cache.claim(wanted) as claim:
                found |= claim.known
                async for key, value in _run(service, mine, loaded, claim.mine):
                    found[key] = value
                    cache.keep(claim, key, value)
            for key, promise in claim.shared.items():
                if (kept := await asyncio.wrap_future(promise)) is not None:
                    found[key] = kept
    return put_together(found, keys, loaded.bundle.manifest.vector_width)


async def _run(
    service: Service, mine: Turn, loaded: Loaded, keys: Sequence[TextKey]
) -> AsyncIterator[tuple[TextKey, TextVector]]:
    """The vectors of these texts, by the graph."""
    if not keys:
        return
    texts = [key.text for key in keys]
    with service.observer.stage("preprocess"):
        if sum(map(len, texts)) <= FEW_CHARACTERS:
            batches = loaded.model.text_batches(texts, PIECE)
        else:
            # Not among the threads that wait for the model: all of them may be waiting for these very texts.
            batches = await service.light.run(loaded.model.text_batches, texts, PIECE)
    following = iter(batches)
    waiting = deque((batch, mine.start(loaded, "text", batch.inputs)) for batch in islice(following, AHEAD))
    try:
        while waiting:
            batch, future = waiting.popleft()
            for one in made(keys, batch, await future):
                yield one
            waiting.extend((after, mine.start(loaded, "text", after.inputs)) for after in islice(following, 1))
    finally:
        for _, future in waiting:
            future.cancel()


def _embed_media(service: Service, mine: Turn, model: Model, name: str, one: MediaInput) -> Floats:
    with _as_upload(service, name, one.data) as upload:
        vector: Floats = look_at_upload(service, mine, model, upload, Part(one.start, one.end)).embedding.vectors[0]
        return vector


@contextmanager
def _as_upload(service: Service, name: str, data: str) -> Iterator[Upload]:
    """The file in a data URL, gone afterwards. Raises InvalidInput and StorageError."""
    found = _DATA_URL.match(data)
    if found is None:
        raise InvalidInput(f"{name}.data: {data[:40]!r}; a data URL (data:image/png;base64,…) was expected")
    try:
        content = base64.b64decode(data[found.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"{name}.data: not base64 ({error})") from error
    path = service.media.new_upload()
    try:
        _write(path, content)
        yield Upload(path, name, hashlib.sha256(content).hexdigest(), len(content))
    finally:
        path.unlink(missing_ok=True)


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise StorageError(f"{path}: {error}") from error


def _text(one: str | TextInput | MediaInput) -> str:
    assert not isinstance(one, MediaInput)
    return one if isinstance(one, str) else one.text


def _encoded(vector: Floats) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
