"""The vectors nearest to a query: FAISS indexes in memory and on disk, derived from the catalogue."""
