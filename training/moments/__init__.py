"""Temporal localisation: a head that finds the moments of a video that a sentence describes.

Read in this order: ``annotations`` (corpora), ``scenes`` (drawn ones), ``windows`` (embeddings, computed once),
``recipe`` (configuration), ``head`` (models), ``losses``, ``loop`` (training), ``metrics``, ``evaluation``, ``cli``.
"""
