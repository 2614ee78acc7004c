"""Corpora: loaders of the original formats, and the packed form that training reads."""
