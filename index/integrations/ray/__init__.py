"""A job's files decoded and embedded by the workers of a Ray cluster; one process writes the collection."""
