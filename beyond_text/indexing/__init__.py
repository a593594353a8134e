"""Keeps a catalogue's vectors and columns in a folder that is searched, moved and updated.

In: a folder of products and a model. Out: an index folder, and `Index`, which answers queries from
it without torch. Read `index.py` first, then `build.py`.
"""
