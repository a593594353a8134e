"""Keeps copies of products' main pictures in an index, named by the digests of their bytes.

So a picture that several products share is kept once, and an update copies only new ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
from tqdm import tqdm

from beyond_text.files import write_bytes
from beyond_text.indexing.source import Content
from beyond_text.retrieval.described import Place

PICTURES = "pictures"


def place_of_copy(digest: bytes) -> Place:
    """Returns where the copy of a picture lies in an index."""
    name = digest.hex()
    return Place(f"{PICTURES}/{name[:2]}/{name}")


def copy_pictures(index: Path, content: Content, rows: np.ndarray, workers: int) -> None:
    """Copies the main pictures of the products in these rows, but those that are there.

    Raises:
        OSError: one cannot be written.
        ValueError: one cannot be read.
    """

    def copy(row: int) -> None:
        pictures = content.products[row].pictures
        if not pictures:
            return
        path = index / place_of_copy(content.pictures[row].tobytes()).file
        if path.is_file():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        data = pictures[0].read(content.root)
        write_bytes(path, data)

    # Each picture once: two threads would write to one file.
    _, firsts = np.unique(content.pictures[rows], axis=0, return_index=True)
    with ThreadPoolExecutor(workers) as threads:
        done = threads.map(copy, rows[firsts].tolist())
        for _ in tqdm(done, desc="copying pictures", total=len(firsts), leave=False, disable=None):
            pass


def remove_pictures(index: Path, wanted: Sequence[bytes]) -> None:
    """Removes all copies but those of the pictures with these digests."""
    names = {digest.hex() for digest in wanted}
    for path in (index / PICTURES).glob("*/*"):
        if path.name not in names:
            path.unlink(missing_ok=True)


def is_picture(data: bytes) -> bool:
    """Says whether bytes begin as a picture does: an index must show nothing else of a disk."""
    from PIL import Image

    from beyond_text.tables.pictures import FORMATS

    try:
        with Image.open(BytesIO(data), formats=FORMATS):
            return True
    except Exception:
        # Damaged headers leave the decoders as errors of any kind.
        return False
