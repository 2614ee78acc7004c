"""Collections of videos: SQLite catalogue, vector index, search, indexing jobs, transfer."""
