"""Engines that run graphs by TensorRT: built for the local GPU, cached on disk, and run.

Imported only for the device "tensorrt". A plan is a serialized engine, for one version of TensorRT and one GPU model.
"""
