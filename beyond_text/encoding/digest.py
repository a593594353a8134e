"""Names a run's model by its files, without torch."""

from __future__ import annotations

import hashlib
from pathlib import Path

from beyond_text.config.names import MODEL
from beyond_text.files import sha256_of


def digest_of_run(run: Path) -> str:
    """Returns a digest of all files of a run's model.

    Raises:
        OSError: they cannot be read.
    """
    folder = run / MODEL
    files = sorted(each.relative_to(folder) for each in folder.rglob("*") if each.is_file())
    names = (f"{sha256_of(folder / file)} {file.as_posix()}\n" for file in files)
    return hashlib.sha256("".join(names).encode()).hexdigest()
