"""MLServer serving a model repository that `vitascope triton` wrote (docs/triton.md).

python docs/examples/mlserver_runtime.py models          # a model-settings.json for each model of the repository
PYTHONPATH=docs/examples mlserver start models
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

DATATYPES = {"tensor(uint8)": "UINT8", "tensor(int64)": "INT64", "tensor(float)": "FP32"}


class OnnxGraph(MLModel):
    """One graph, run by ONNX Runtime."""

    async def load(self) -> bool:
        self._session = onnxruntime.InferenceSession(self.settings.parameters.uri)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        inputs = {tensor.name: NumpyCodec.decode_input(tensor) for tensor in payload.inputs}
        names = [output.name for output in payload.outputs or ()] or [o.name for o in self._session.get_outputs()]
        arrays = self._session.run(names, inputs)
        outputs = [NumpyCodec.encode_output(name, array) for name, array in zip(names, arrays, strict=True)]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)


def settings_of(folder: Path) -> dict[str, Any]:
    """model-settings.json of a model; its version is the fingerprint, which Vitascope looks for."""
    graph = folder.resolve() / "1" / "model.onnx"
    session = onnxruntime.InferenceSession(str(graph))
    stated = re.search(
        r'"vitascope_fingerprint"\s+value \{\s+string_value: "(\w+)"', (folder / "config.pbtxt").read_text()
    )
    return {
        "name": folder.name,
        "implementation": "mlserver_runtime.OnnxGraph",
        "parameters": {"uri": str(graph), "version": stated[1] if stated else None},
        "inputs": [_tensor(one) for one in session.get_inputs()],
        "outputs": [_tensor(one) for one in session.get_outputs()],
    }


def _tensor(argument: Any) -> dict[str, Any]:
    shape = [size if isinstance(size, int) else -1 for size in argument.shape]
    return {"name": argument.name, "datatype": DATATYPES[argument.type], "shape": shape}


if __name__ == "__main__":
    for folder in sorted(path for path in Path(sys.argv[1]).iterdir() if (path / "config.pbtxt").is_file()):
        (folder / "model-settings.json").write_text(json.dumps(settings_of(folder), indent=1))
