"""Transfer of collections: backup and restore, Parquet export and import, re-embedding."""

from collections.abc import Callable

ProgressCallback = Callable[[int, int], None]
"""Callback with the number of finished units and their total; units are pages, clips or parts."""
