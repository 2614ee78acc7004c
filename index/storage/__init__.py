"""The catalogue, a collection's SQLite file, and all SQL."""
