"""In: WebDataset shards and their manifest. Out: batches, in an order that a seed decides.

Read `dataset.py` first, then `sampler.py` and `collate.py`. What is known of all samples without
opening a shard lies in arrays that processes share: `records.py` and `judged.py`.
"""
