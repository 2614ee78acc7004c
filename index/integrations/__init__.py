"""Optional integrations of collections: vectors in Milvus, indexing jobs on Ray."""
