"""In: a model, a catalogue that is searched and a query set that is measured. Out: rankings.

Read `encode.py` first, then `ranking.py`.
"""
