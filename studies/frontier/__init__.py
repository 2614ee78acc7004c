"""Accuracy over latency: what bundles find, and what a clip and a text cost them."""
