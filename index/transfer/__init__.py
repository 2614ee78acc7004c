"""Collections to and from other places: Parquet, backup, restore."""
