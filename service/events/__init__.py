"""Jobs followed live, as server-sent events."""
