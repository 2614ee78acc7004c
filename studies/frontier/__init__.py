"""Accuracy and latency of bundles, compared on one packed split."""
