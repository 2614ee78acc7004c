"""SSRF-safe HTTP client for URLs that users supply.

A URL is parsed once and strictly, every address of its host must be public, and the connection goes to an address that
was checked, whatever the name resolves to later.
"""
