"""Bundles on disk: the manifest, verification, signatures and inspection."""
