"""Vector index in a Milvus server, derived from the catalogue."""
