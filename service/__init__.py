"""The HTTP application: collections, videos, jobs, search, caption scores and answers, and one page for
people.
"""
