"""Comparison of a bundle with the model from which it was exported."""
