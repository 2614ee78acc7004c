"""TensorRT: graphs built into engines for the GPU at hand, kept, and run.

Everything here is imported when the device "tensorrt" is asked for, and not before. A `plan` is TensorRT's word for
an engine as bytes; it fits one version of the library and one kind of GPU.
"""
