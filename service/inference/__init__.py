"""Model inference for requests: scheduling, batching, caches and the registry of models."""
