"""Trains a model on shards: batches in, optimizer steps, a finished run folder out.

In: a `Config`, folders of shards, encoders or the weights of an earlier run.
Out: model/, metrics.json and TREC files in the run folder. Read `module.py` first.
"""
