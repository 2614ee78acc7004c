"""Optional integrations of the runtime, each imported only where it is used."""
