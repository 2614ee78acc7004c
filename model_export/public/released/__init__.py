"""Checkpoints as the authors of CLIP-ViP, HD-VILA and SOHO released them: one file of weights, and nothing that says
how they are wired. Read in this order: ``layouts`` (which system a file is of), ``table`` (whose names are whose),
then one module or package per system.
"""
