"""`scenes`: a synthetic corpus of moving objects with captions, wrong captions, transcripts and questions.

Clip ``i`` of a split depends on ``(seed, split, i)`` alone, so any part of the corpus can be made by itself.
Its words and its drawn frames are exactly repeatable, its encoded bytes nearly (see ``render.encode``).
"""
