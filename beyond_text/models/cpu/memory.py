"""Controls how a process that trains on a CPU takes memory from the system and returns it."""

from __future__ import annotations

import ctypes

# Parameters of mallopt, from <malloc.h>.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Tells the C library to keep the memory that this process frees, for later allocations.

    A step's activations are large. By default glibc returns each one to the system, and takes it
    again, page by page, in the next step, which was a third of the image tower's time on a CPU. The
    peak of memory is as high, but is held until `give_back_freed_memory`.

    Returns:
        Whether the C library can be told so, as glibc can.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # No mmap, whose pages return to the system once they are freed; no trimming of the heap.
    return bool(mallopt and mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1))


def give_back_freed_memory() -> None:
    """Gives the freed memory of this process back to the system."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)
