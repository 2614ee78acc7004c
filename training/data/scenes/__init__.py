"""`scenes`: a synthetic corpus of small moving objects with captions, wrong captions, transcripts and questions.

Clip ``i`` of a split depends on ``(seed, split, i)`` alone, so any part of the corpus can be made again by itself.
"""
