"""Says of each product's picture what colour, pattern and material it shows; needs no judgments.

In: a finished run (stage 1 is enough), products and lists of words. Out: a table of attributes.
Read `tag.py` first.
"""
