"""TensorRT backend: build an engine per graph for the local GPU, cache it on disk, and run it.

Imported only for the device "tensorrt". A plan is a serialized engine; it is valid for one version of TensorRT and one
GPU model.
"""
