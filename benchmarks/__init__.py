"""Benchmarks of the service, index, indexing, training and GPUs; not part of the wheel."""
