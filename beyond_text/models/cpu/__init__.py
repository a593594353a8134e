"""Makes training on a CPU faster; the results stay the same up to rounding and random draws.

In: the operations that PyTorch runs slowly there (padded attention, dropout, depthwise
convolutions, freed memory). Out: faster ones. Read `packed.py` first.
"""
