"""Sources of jobs: their description, listing and fetching."""
