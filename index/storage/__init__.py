"""The catalogue: one SQLite file that is the truth about a collection."""
