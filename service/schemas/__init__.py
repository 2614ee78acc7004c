"""Schemas of requests and responses, with examples."""
