"""The claims of the article, measured small: one command trains every arm, measures it and writes docs/study.md.

Read in this order: ``corpora`` (small pictures), ``arms`` (the compared recipes), ``compute`` (equal compute per
arm), ``run`` (one arm, and all of them, resumable), ``report`` (tables, plots and the page).
"""
