"""Indexing jobs: sources, states, and the pipeline that brings files into a collection."""
