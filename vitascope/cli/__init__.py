"""Subcommands that need the runtime alone, and what all subcommands share: options and output."""
