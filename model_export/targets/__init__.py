"""Bundles for other runtimes: TensorRT and Triton."""
