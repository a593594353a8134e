"""In: a shop's structured fields and rules. Out: shoppers' queries with graded judgments.

Read `rules.yaml` first, then `compose.py` and `grade.py`; `phrases.py` and `details.py` are for
details of the products' texts.
"""
