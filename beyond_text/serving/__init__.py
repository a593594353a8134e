"""Answers searches of indexes over HTTP, and shows a page to search them by.

In: index folders. Out: `POST /search`, products, pictures, facets, metrics and the page at `/`.
Imports no torch. Read `app.py` first, then `batching.py`.
"""
