"""Keeps what FAISS builds of vectors in the user's own cache folder, and nowhere else.

FAISS's parser trusts its files. So none is read but one that this user's own program wrote, into a
folder that nobody else can write to; an index that was moved or sent has none, and gets its own.
"""

from __future__ import annotations

import os
from pathlib import Path


def user_cache() -> Path:
    """Returns the folder in which this user's programs keep what they can make again."""
    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(home) / "beyond-text"
