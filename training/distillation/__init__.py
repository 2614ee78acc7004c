"""Distillation of a bundle into a smaller video encoder with the same embedding space.

Read in this order: ``recipe`` (configuration), ``student`` (model), ``teacher`` (targets), ``losses``, ``loop``.
"""
