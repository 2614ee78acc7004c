"""The teacher's outputs on a packed corpus, computed once by its graphs and cached.

WORK/teacher/<corpus>/<split>/
    vectors.npy    embeddings of all examples, float32 (N, E)
    tokens.npy     visual tokens of all examples, float16 (N, V, K); only if a graph of the teacher reads them
    texts.npy      embeddings of all captions in the order of the examples, float32 (T, E)
    done.json      identity of teacher and corpus, and the number of finished examples, for resuming

Shape letters: N examples, T captions, E embedding dim, V visual tokens, K their width.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

from training.data.arrays import create_array
from training.data.frame_batch import spread_clips
from training.data.other_streams import stream_adapter
from training.data.packed import Packed
from training.evaluation.encoder import embed_texts, streams_of
from vitascope.model import Model

BATCH = 32
SAVE_EVERY = 8
"""Number of batches between two writes of done.json."""

Progress = Callable[[int, int], None]
"""Called with (finished examples, number of examples)."""


@dataclass(frozen=True)
class TeacherOutputs:
    """The teacher's outputs on a packed corpus.

    Attributes:
        packed: The corpus.
        vectors: Embeddings of all examples, float32 (N, E).
        tokens: Visual tokens of all examples, float16 (N, V, K); None if no graph of the teacher reads them.
        texts: Embeddings of all captions, float32 (T, E).
        of: Index of the example of each caption, (T,).
    """

    packed: Packed
    vectors: np.ndarray
    tokens: np.ndarray | None
    texts: np.ndarray
    of: np.ndarray

    def __len__(self) -> int:
        return len(self.packed)


def reads_tokens(teacher: Model) -> bool:
    """Return whether the bundle has the task matching or answering, whose graphs read visual tokens."""
    return bool({"matching", "answering"} & set(teacher.tasks))


def compute_teacher_outputs(
    teacher: Model, packed: Packed, folder: Path, progress: Progress = lambda *_: None
) -> TeacherOutputs:
    """Run the teacher on the examples whose outputs are not cached yet.

    Args:
        teacher: The teacher.
        packed: The corpus.
        folder: Folder of the cached outputs.
        progress: Called after each batch.

    Returns:
        The outputs on all examples.

    Raises:
        InvalidInput: The teacher's streams cannot be derived from the packed ones.
    """
    adapter = stream_adapter(packed, teacher.streams)
    folder.mkdir(parents=True, exist_ok=True)
    identity = {
        "teacher": teacher.bundle.fingerprint,
        "examples": packed.info["examples_sha256"],
        "count": len(packed),
        "frames": adapter.words(),
    }
    done = _done(folder, identity)
    manifest = teacher.bundle.manifest
    shapes: dict[str, tuple[tuple[int, ...], type[np.floating[Any]]]] = {
        "vectors": ((len(packed), manifest.vector_width), np.float32)
    }
    if reads_tokens(teacher):
        shapes["tokens"] = ((len(packed), manifest.visual_tokens, manifest.visual_width), np.float16)
    arrays = {
        name: _open_array(folder / f"{name}.npy", shape, kind, fresh=not done) for name, (shape, kind) in shapes.items()
    }
    clips = spread_clips(packed.clips, packed.clips)
    for number, start in enumerate(range(done, len(packed), BATCH), 1):
        rows = np.arange(start, min(start + BATCH, len(packed)))
        embedded = teacher.embed_video(adapter(streams_of(packed, rows, teacher.streams, clips)))
        arrays["vectors"][rows] = embedded.vectors
        if "tokens" in arrays:
            arrays["tokens"][rows] = embedded.visual_tokens
        if number % SAVE_EVERY == 0 or rows[-1] == len(packed) - 1:
            for array in arrays.values():
                array.flush()
            _write(folder / "done.json", identity | {"done": int(rows[-1]) + 1})
        progress(int(rows[-1]) + 1, len(packed))
    texts = _texts(teacher, packed, folder / "texts.npy", fresh=done < len(packed))
    of = np.repeat(np.arange(len(packed)), [len(e.captions) for e in packed.examples])
    return TeacherOutputs(packed, arrays["vectors"], arrays.get("tokens"), texts, of)


def _open_array(
    path: Path, shape: tuple[int, ...], kind: type[np.floating[Any]], *, fresh: bool
) -> np.memmap[Any, Any]:
    return create_array(path, shape, kind) if fresh else open_memmap(path, "r+")


def _texts(teacher: Model, packed: Packed, path: Path, *, fresh: bool) -> np.ndarray:
    captions = [caption for example in packed.examples for caption in example.captions]
    if path.exists() and not fresh:
        return np.asarray(np.load(path, mmap_mode="r"))
    width = teacher.bundle.manifest.vector_width
    embeddings = embed_texts(teacher, captions) if captions else np.zeros((0, width), np.float32)
    part = path.with_name("texts.part.npy")
    np.save(part, embeddings.astype(np.float32))
    os.replace(part, path)
    return embeddings


def _done(folder: Path, identity: dict[str, Any]) -> int:
    """Return the number of finished examples; 0 if the outputs are those of another teacher or corpus."""
    path = folder / "done.json"
    if not path.exists():
        return 0
    stored = json.loads(path.read_text("utf-8"))
    done = int(stored.pop("done"))
    return done if stored == identity else 0


def _write(path: Path, content: dict[str, Any]) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    os.replace(part, path)
