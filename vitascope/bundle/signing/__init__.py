"""Signatures of bundles: Ed25519 over the manifest, in the files of minisign."""
