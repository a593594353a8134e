"""In: recipe files and `key=value` words. Out: one checked `Config`.

Read `settings.py` first: it has every setting, with its default.
"""
