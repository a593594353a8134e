"""In: URLs of pictures. Out: whole files in a folder, and for each URL what became of it.

Read `fetcher.py` first, then `addresses.py`.
"""
