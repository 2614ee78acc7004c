"""Where graphs run, and how many at once."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest

from service.inference.loaded_model import MAX_CPU_WORKERS, REMOTE_WORKERS, default_workers
from tests.service.conftest import settings_for
from tests.service.running import serving
from vitascope.cli.main import main
from vitascope.engines import gpu
from vitascope.engines.onnx_runtime import Placement


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_placements_of_graphs_are_reported(
    small_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A GPU build of ONNX Runtime where no GPU is lists CUDA and runs on the CPU: so many lanes as suit a CPU."""
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("needs a build of onnxruntime without GPU support")
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(gpu, "DRIVER", "libnone.so.1")
    settings = settings_for(small_bundle, tmp_path / "data", text_cache_bytes=0)
    with serving(settings.model_copy(update={"device": "auto", "threads": 2})) as running:
        told = running.client.get("/v1/models").json()["models"][0]["engines"]
        assert sorted(told) == ["answer", "match", "text", "video"]
        for engine in told.values():
            assert engine["engine"] == f"onnxruntime {onnxruntime.__version__}"
            assert engine["device"] == "cpu"
            assert "no NVIDIA driver is installed: libnone.so.1" in engine["fallback"]
        assert running.service.scheduler.workers == 2
        assert main(["models", "list", "--server", str(running.client.base_url)]) == 0
        assert "small-colours@1 runs on cpu: no NVIDIA driver is installed: libnone.so.1" in capsys.readouterr().out
    assert caplog.text.count("answer, match, text, video: on cpu") == 1
    assert "no NVIDIA driver is installed: libnone.so.1" in caplog.text


def test_a_gpu_has_one_worker_and_a_cpu_one_per_core() -> None:
    on_gpu, on_cpu = Placement("onnxruntime 1.31.1", "cuda"), Placement("onnxruntime 1.31.1", "cpu")
    assert default_workers([on_gpu, Placement("tensorrt 10.15.1", "tensorrt")], threads=8) == 1
    assert default_workers([on_cpu], threads=3) == 3
    assert default_workers([on_gpu, on_cpu], threads=3) == 3  # what fell back must not wait for what did not
    assert default_workers([on_cpu], threads=64) == MAX_CPU_WORKERS
    assert default_workers([Placement("kserve http://triton:8000", "remote")], threads=1) == REMOTE_WORKERS
