"""Bundles looked into: what is inside, whether it holds, what differs between two."""
