"""The claims of the article, measured with small models: one command trains and evaluates every arm, and updates
docs/study.md.

Read in this order: ``corpora`` (small pictures), ``arms`` (the recipes to compare), ``compute`` (equal compute per
arm), ``run`` (runs of one arm and of all arms, which can be resumed), ``report`` (tables, plots and the page).
"""
