"""A collection's vectors in a Milvus server: derived from the catalogue, followed by its log of changes."""
