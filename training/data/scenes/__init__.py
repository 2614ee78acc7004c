"""The synthetic corpus `scenes`: moving objects with captions, negative captions, transcripts and questions.

Clip `i` of a split depends on `(seed, split, i)` only, so that any part of the corpus can be generated alone. Texts and
rendered frames are exactly repeatable; encoded bytes are for one version of the encoder (`render.encode`).
"""
