"""Transfer of collections: backup and restore, Parquet export and import, re-embedding."""

from collections.abc import Callable

ProgressCallback = Callable[[int, int], None]
"""Called with how much is done, and how much there is: pages, clips or parts."""
