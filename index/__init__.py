"""Collections: a SQLite catalogue that is the truth, FAISS vectors derived from it, and indexing jobs."""
