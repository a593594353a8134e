"""How a process that trains on a CPU asks the system for memory."""

from __future__ import annotations

import ctypes

# Of <malloc.h>.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Tells the C library to keep the memory that this process frees, for later allocations.

    A step's activations are large: by default glibc gives each back to the system and takes it
    anew, page by page, in the next step, which was a third of the image tower's time on a CPU. The
    peak of memory is as high, but is held until it is given back.

    Returns:
        Whether the C library is one that can be told so, which is glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # Nothing from mmap, whose pages go back as soon as they are freed; no end of the heap cut off.
    return bool(mallopt and mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1))


def give_back_freed_memory() -> None:
    """Gives the freed memory of this process back to the system."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)
