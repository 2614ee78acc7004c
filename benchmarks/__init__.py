"""Benchmarks of the index, indexing and the service, each beside a named reference; not part of the wheel."""
