"""In: a ranking, queries and judgments. Out: numbers, intervals and TREC files; no torch.

Read `ranking.py` first.
"""
