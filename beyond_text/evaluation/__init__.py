"""Compares finished runs: ladders of ablations, UniECS's nine scenarios, missing modalities.

In: run folders, or recipes that say which runs to train.
Out: tables, charts and JSON of scores with paired differences. Read `report.py` first.
"""
