"""Bundles on disk: manifest, verification, signatures and inspection."""
