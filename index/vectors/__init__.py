"""Vector indexes derived from the catalogue: FAISS in memory and on disk."""
