"""In: tables of a shop. Out: one HTML page that a person reads before training.

Read `facts.py` first.
"""
