"""The runtime that every room shares: bundles, decoding, tokenising and running graphs."""
