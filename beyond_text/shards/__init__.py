"""In: WebDataset shards and their manifest. Out: batches, in an order that a seed decides.

Read `dataset.py` first, then `sampler.py` and `collate.py`.
"""
