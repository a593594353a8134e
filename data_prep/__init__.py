"""In: tables of any shop. Out: WebDataset shards; also the built-in catalogue and encoders.

Read `shards.py` first.
"""
