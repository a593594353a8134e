"""Encodes texts and pictures as unit vectors in one space, and fuses those of a product.

In: Hugging Face encoders and batches. Out: `Embeddings`, and a model folder that needs nothing
else. Read `two_tower.py` first, then `fusion.py`.
"""
