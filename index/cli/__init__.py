"""Subcommands of `vitascope` that work on collections."""
