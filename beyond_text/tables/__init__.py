"""In: a shop's files. Out: rows of products, queries and judgments that are used or rejected.

Read `read.py` first.
"""
