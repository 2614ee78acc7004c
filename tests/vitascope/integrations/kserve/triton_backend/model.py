"""Triton backend in Python that replaces onnxruntime, for packages of Triton with the Python backend only."""

import json
import os

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        options = onnxruntime.SessionOptions()
        threads = config.get("parameters", {}).get("intra_op_thread_count", {}).get("string_value", "0")
        options.intra_op_num_threads = int(threads)
        path = os.path.join(args["model_repository"], args["model_version"], "model.onnx")
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.inputs = [tensor["name"] for tensor in config["input"]]
        self.ranks = {argument.name: len(argument.shape) for argument in self.session.get_inputs()}
        self.outputs = [tensor["name"] for tensor in config["output"]]

    def execute(self, requests: list) -> list:
        """Run the requests of a batch at once; their shapes differ only in the rows."""
        parts = {
            name: [pb_utils.get_input_tensor_by_name(request, name).as_numpy() for request in requests]
            for name in self.inputs
        }
        parts = {  # the Python backend leaves out a reshape to the batch axis only
            name: [array.reshape(-1) for array in arrays] if self.ranks[name] == 1 else arrays
            for name, arrays in parts.items()
        }
        ends = np.cumsum([len(part) for part in parts[self.inputs[0]]])[:-1]
        try:
            arrays = self.session.run(self.outputs, {name: np.concatenate(arrays) for name, arrays in parts.items()})
        except Exception as error:
            return [pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error))) for _ in requests]
        split = [np.split(array, ends) for array in arrays]
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor(name, rows[number]) for name, rows in zip(self.outputs, split, strict=True)]
            )
            for number in range(len(requests))
        ]
