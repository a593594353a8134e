"""Encodes products and queries with a model, and ranks the products for each query.

In: a finished run, and a split of shards or tables. Out: rankings, an index and picture panels.
Read `ranking.py` first, then `encode.py`.
"""
