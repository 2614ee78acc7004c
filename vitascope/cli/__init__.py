"""The `vitascope` command: dispatch, shared options and output, and subcommands of the runtime."""
