"""Hashes texts to keys, without torch, which a process that builds shards need not load."""

from __future__ import annotations

import hashlib
from functools import lru_cache


@lru_cache(maxsize=2**16)
def key_of(text: str) -> int:
    """Hashes a text to a 64-bit key, the same in every process."""
    return key_of_bytes(text.encode())


def key_of_bytes(data: bytes) -> int:
    """Hashes bytes to a 64-bit key."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), signed=True)
