"""FAISS on a GPU finds what it finds on the CPU. `make gpu-check` runs this where there is one."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from index.vectors import gpu

pytestmark = pytest.mark.gpu


def test_a_flat_index_on_the_gpu_finds_the_same() -> None:
    if not hasattr(faiss, "get_num_gpus") or faiss.get_num_gpus() == 0:
        pytest.skip("needs the GPU build of FAISS")
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(20_000, 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = faiss.IndexFlatIP(64)
    index.add(vectors)
    gpu_index = gpu.copy_to_gpu(index)
    assert gpu_index is not None
    cosines, positions = gpu_index.search(vectors[:50], 10)
    right_cosines, right_positions = index.search(vectors[:50], 10)
    assert (positions[:, 0] == np.arange(50)).all()
    np.testing.assert_allclose(cosines, right_cosines, atol=1e-3)
    shared = [len(set(a) & set(b)) for a, b in zip(positions.tolist(), right_positions.tolist(), strict=True)]
    assert np.mean(shared) >= 9.9
