"""A smaller video encoder that learns to see as a bundle's does: a student in its teacher's vector space.

Read in this order: ``recipe`` (the numbers), ``student`` (the model), ``teacher`` (what it learns from), ``losses``,
``loop``.
"""
