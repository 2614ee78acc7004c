"""`vitascope triton`: a bundle as a model repository that Triton can load."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from model_export.targets.triton import TritonOptions, write_repository
from tests.small_bundle import TEXT_LENGTH, make_small_bundle, write_manifest
from vitascope.bundle.bundle import Bundle
from vitascope.bundle.onnx_files import load_graph
from vitascope.cli.main import main
from vitascope.engines.onnx_runtime import OnnxRuntimeEngine
from vitascope.errors import BundleUnsupported

# The used part of Triton's model_config.proto; `make triton-check` parses with all of it. * marks a repeated field.
ENUMS = {
    "DataType": ["TYPE_INVALID", "TYPE_BOOL", "TYPE_UINT8", "TYPE_INT64", "TYPE_FP16", "TYPE_FP32"],
    "Kind": ["KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL"],
}
MESSAGES = {
    "ModelConfig": "name:string backend:string max_batch_size:int32 version_policy:ModelVersionPolicy "
    "input:ModelInput* output:ModelOutput* instance_group:ModelInstanceGroup* dynamic_batching:ModelDynamicBatching "
    "parameters:Parameter* model_warmup:ModelWarmup* response_cache:ModelResponseCache",
    "ModelVersionPolicy": "specific:Specific",
    "Specific": "versions:int64*",
    "ModelInput": "name:string data_type:DataType dims:int64* reshape:ModelTensorReshape",
    "ModelOutput": "name:string data_type:DataType dims:int64* reshape:ModelTensorReshape",
    "ModelTensorReshape": "shape:int64*",
    "ModelInstanceGroup": "name:string kind:Kind count:int32 gpus:int32*",
    "ModelDynamicBatching": "preferred_batch_size:int32* max_queue_delay_microseconds:uint64",
    "Parameter": "key:string value:ModelParameter",
    "ModelParameter": "string_value:string",
    "ModelWarmup": "name:string batch_size:uint32 inputs:WarmInput* count:uint32",
    "WarmInput": "key:string value:Input",
    "Input": "data_type:DataType dims:int64* zero_data:bool random_data:bool input_data_file:string",
    "ModelResponseCache": "enable:bool",
}


def model_config_class() -> Any:
    file, kinds = (
        descriptor_pb2.FileDescriptorProto(name="part.proto", syntax="proto3"),
        descriptor_pb2.FieldDescriptorProto,
    )
    for name, words in ENUMS.items():
        enum = file.enum_type.add(name=name)
        for number, word in enumerate(words):
            enum.value.add(name=word, number=number)
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, field in enumerate(fields.split(), 1):
            key, kind = field.removesuffix("*").split(":")
            added = message.field.add(name=key, number=number, label=3 if field.endswith("*") else 1)
            if kind in MESSAGES or kind in ENUMS:
                added.type = kinds.TYPE_MESSAGE if kind in MESSAGES else kinds.TYPE_ENUM
                added.type_name = f".{kind}"
            else:
                added.type = getattr(kinds, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("ModelConfig"))


def read(out: Path) -> dict[str, Any]:
    """Every config.pbtxt in the repository, by graph."""
    kind = model_config_class()
    configs = [text_format.Parse((folder / "config.pbtxt").read_text(), kind()) for folder in sorted(out.iterdir())]
    assert [config.name for config in configs] == [folder.name for folder in sorted(out.iterdir())]
    return {config.name.rpartition("-")[2]: config for config in configs}


def folder_of(out: Path, graph: str) -> Path:
    return next(folder for folder in out.iterdir() if folder.name.endswith(f"-{graph}"))


def test_config_has_the_fields_that_triton_requires(small_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(small_bundle)
    write_repository(bundle, tmp_path / "models", TritonOptions(max_batch=8, device="gpu", instances=2))
    configs = read(tmp_path / "models")
    assert set(configs) == {"text", "video", "match", "answer"}
    for graph, config in configs.items():
        assert config.name == f"small-colours-{bundle.fingerprint[:12]}-{graph}"
        assert (config.backend, config.max_batch_size) == ("onnxruntime", 8)
        assert list(config.version_policy.specific.versions) == [1]
        assert list(config.dynamic_batching.preferred_batch_size) == [8]
        assert config.dynamic_batching.max_queue_delay_microseconds == 0
        assert [(group.count, group.kind) for group in config.instance_group] == [(2, 1)]
        assert not config.response_cache.enable
        parameters = {p.key: p.value.string_value for p in config.parameters}
        assert parameters == {"vitascope_fingerprint": bundle.fingerprint, "share_session_between_instances": "true"}
        assert [sample.batch_size for sample in config.model_warmup] == [1, 8]
    video, match = configs["video"], configs["match"]
    assert {array.name: (array.data_type, list(array.dims)) for array in video.input} == {
        "high": (2, [-1, 1, 64, 64, 3]),
        "low": (2, [-1, 6, 32, 32, 3]),
    }
    assert {array.name: (array.data_type, list(array.dims)) for array in video.output} == {
        "vector": (5, [16]),
        "visual_tokens": (5, [2, 16]),
    }
    assert [list(array.dims) for array in match.input] == [[-1], [-1], [2, 16]]
    (logit,) = match.output
    assert (list(logit.dims), logit.HasField("reshape"), list(logit.reshape.shape)) == ([1], True, [])


@pytest.mark.parametrize("kind", ["default", "free-form answers", "sound"])
def test_warm_up_inputs_fit_the_graphs(kind: str, small_bundle: Path, tmp_path: Path) -> None:
    """Triton rejects a model whose warm-up fails. A mask of ones comes from a file."""
    bundle = small_bundle
    if kind == "free-form answers":
        bundle = make_small_bundle(tmp_path / "bundle", tasks=["answering"], free_form_answers=True)
    if kind == "sound":
        bundle = make_small_bundle(tmp_path / "bundle", tasks=["audio_retrieval"])
    write_repository(Bundle.open(bundle), tmp_path / "models", TritonOptions(max_batch=2))
    numpy_types = {2: np.uint8, 3: np.int64, 5: np.float32}
    for graph, config in read(tmp_path / "models").items():
        folder = folder_of(tmp_path / "models", graph)
        for sample in config.model_warmup:
            inputs = {}
            for entry in sample.inputs:
                row = np.zeros(entry.value.dims, numpy_types[entry.value.data_type])
                if entry.value.input_data_file:
                    raw = (folder / "warmup" / entry.value.input_data_file).read_bytes()
                    row = np.frombuffer(raw, row.dtype).reshape(row.shape)
                    assert row.tolist() == [1] * TEXT_LENGTH
                inputs[entry.key] = np.stack([row] * sample.batch_size)
            for tensor in config.input:
                if tensor.HasField("reshape"):  # to the batch axis only
                    assert (list(tensor.dims), list(tensor.reshape.shape)) == ([1], [])
                    inputs[tensor.name] = inputs[tensor.name][:, 0]
            outputs = OnnxRuntimeEngine(folder / "1" / "model.onnx", threads=1).run(inputs)
            for output in config.output:
                assert outputs[output.name].shape[0] == sample.batch_size


@pytest.mark.parametrize("copy", [False, True])
def test_files_are_linked_or_copied_with_correct_checksums(copy: bool, tmp_path: Path) -> None:
    bundle = Bundle.open(make_small_bundle(tmp_path / "bundle", external_data=True))
    written = write_repository(bundle, tmp_path / "models", TritonOptions(), copy=copy)
    assert [model.linked for model in written] == [not copy] * 4
    for graph in ("text", "video"):  # these share their weights
        folder = folder_of(tmp_path / "models", graph)
        assert {path.name for path in (folder / "1").iterdir()} == {"model.onnx", "weights.bin"}
        assert os.path.samefile(folder / "1" / "weights.bin", bundle.folder / "weights.bin") is not copy
        OnnxRuntimeEngine(folder / "1" / "model.onnx", threads=1)
    assert load_graph(bundle.folder / "text.onnx").graph.initializer  # onnx.load rejects linked weights
    for folder in (tmp_path / "models").iterdir():
        subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_writing_again_replaces_only_the_same_models(tmp_path: Path) -> None:
    first, second = (Bundle.open(make_small_bundle(tmp_path / str(seed), seed=seed)) for seed in (0, 1))
    write_repository(first, tmp_path / "models", TritonOptions(max_batch=8))
    write_repository(second, tmp_path / "models", TritonOptions(max_batch=8))
    (folder_of(tmp_path / "models", "text") / "1" / "old").touch()
    write_repository(first, tmp_path / "models", TritonOptions(max_batch=16))
    write_repository(second, tmp_path / "models", TritonOptions(max_batch=4))
    folders = list((tmp_path / "models").iterdir())
    assert len(folders) == 8
    sizes = {folder.name[: -len("-text")]: f"{folder}" for folder in folders if folder.name.endswith("-text")}
    assert len(sizes) == 2
    assert not list((tmp_path / "models").rglob("old"))
    texts = [(folder / "config.pbtxt").read_text() for folder in folders]
    assert (
        sum("max_batch_size: 16" in text for text in texts) == sum("max_batch_size: 4\n" in text for text in texts) == 4
    )


def test_unservable_graphs_are_rejected(tmp_path: Path) -> None:
    import onnx

    folder = make_small_bundle(tmp_path / "bundle")
    graph = onnx.load(folder / "text.onnx")
    graph.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(graph, folder / "text.onnx")
    write_manifest(folder, json.loads((folder / "manifest.json").read_text()))
    with pytest.raises(BundleUnsupported, match=r"-text: output 'vector' .*\(1, 16\).*free batch axis"):
        write_repository(Bundle.open(folder), tmp_path / "models", TritonOptions())
    assert not [path for path in tmp_path.rglob("config.pbtxt") if "-text" in str(path)]


def test_the_command_lists_the_models_and_rejects_invalid_options(
    small_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "models"
    assert main(["triton", str(small_bundle), "--out", str(out), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert {model["name"] for model in printed["models"]} == {folder.name for folder in out.iterdir()}
    assert main(["triton", str(small_bundle), "--out", str(out)]) == 0
    assert "written to" in capsys.readouterr().out
    for options, message in (
        (["--out", str(small_bundle / "text.onnx")], "out: "),
        ([], "out: missing"),
        (["--out", str(out), "--max-batch", "0"], "max_batch: 0"),
        (["--out", str(out), "--instances", "0"], "instances: 0; at least 1"),
        (["--check", "onnxruntime"], "engine: 'onnxruntime' is not a server"),
    ):
        assert main(["triton", str(small_bundle), *options]) == 2
        assert message in capsys.readouterr().err
