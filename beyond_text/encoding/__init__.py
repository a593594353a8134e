"""A model as two functions, from texts and pictures of queries or of products to unit vectors.

In: a finished run (by torch) or an export (by onnxruntime, without torch), texts and pictures. Out:
vectors. Read `model.py` first.
"""
