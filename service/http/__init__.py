"""The HTTP layer: authentication, limits, parsing, errors and middleware."""
