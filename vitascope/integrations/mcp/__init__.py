"""Model Context Protocol server: read-only tools for assistants on a running service."""
