"""Decoding of untrusted media files, in this process or in confined worker processes."""
