"""Measures rankings, compares them, and writes them as TREC files; imports no torch.

In: a ranking, queries and judgments. Out: metrics, confidence intervals, p-values and files. Read
`ranking.py` first.
"""
