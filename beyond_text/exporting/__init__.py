"""Writes a run's model as files that other programs read, and a card that says what it is.

In: a finished run. Out: a folder of ONNX graphs, a sentence-transformers model, preprocessing as
data and a model card. Read `folder.py` first.
"""
