"""Comparison of a bundle with the model it was exported from."""
