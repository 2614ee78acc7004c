"""Checkpoints released by the authors of CLIP-ViP, HD-VILA and SOHO: one file of weights without a configuration.

Sizes are inferred from tensor shapes; what shapes do not determine is guessed and noted.
"""
