"""A backend for Triton that takes the place of the one named onnxruntime, where only Python's backend is to be had.

Everything else of Triton is the real thing: it reads the repository, batches, warms up, and speaks the protocol.
"""

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
        self.inputs = [one["name"] for one in config["input"]]
        self.outputs = [one["name"] for one in config["output"]]

    def execute(self, requests: list) -> list:
        """What the batcher put together is one run; it has the same shapes but for the rows."""
        parts = {
            name: [pb_utils.get_input_tensor_by_name(request, name).as_numpy() for request in requests]
            for name in self.inputs
        }
        ends = np.cumsum([len(part) for part in parts[self.inputs[0]]])[:-1]
        try:
            arrays = self.session.run(self.outputs, {name: np.concatenate(given) for name, given in parts.items()})
        except Exception as error:
            return [pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error))) for _ in requests]
        split = [np.split(array, ends) for array in arrays]
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor(name, rows[number]) for name, rows in zip(self.outputs, split, strict=True)]
            )
            for number in range(len(requests))
        ]
