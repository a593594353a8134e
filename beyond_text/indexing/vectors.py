"""Finds a vector for each product: an earlier index's, one of a killed build, or a new one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from beyond_text.indexing.arrow_files import rows_of_digests
from beyond_text.indexing.encode_parts import (
    made_by,
    plan_folder,
    plan_parts,
    read_part,
    read_parts,
    run_parts,
)
from beyond_text.indexing.encoders import Job
from beyond_text.indexing.generation import Generation
from beyond_text.indexing.source import Content, Digests
from beyond_text.tasks.processes import Processes
from beyond_text.tasks.run import is_done, results


class Vectors(NamedTuple):
    """A vector for each product, which products have one, and how many were encoded."""

    vectors: np.ndarray
    present: np.ndarray
    encoded: int


class _Taken:
    """Vectors of products by their digests, as they become known."""

    def __init__(self, digests: Digests, dim: int) -> None:
        self.vectors = np.zeros((len(digests), dim), dtype=np.float16)
        self.present = np.zeros(len(digests), dtype=bool)
        self.done = np.zeros(len(digests), dtype=bool)
        self._digests = digests

    def take(self, keys: Digests, found: np.ndarray, there: np.ndarray) -> None:
        """Takes vectors, and whether each is one, for all products with these digests."""
        own = np.flatnonzero(~self.done)
        places = rows_of_digests(self._digests[own], keys)
        own, places = own[places >= 0], places[places >= 0]
        self.vectors[own], self.present[own], self.done[own] = found[places], there[places], True

    def open(self) -> list[int]:
        """Returns the first row of each digest whose vector is not known."""
        own = np.flatnonzero(~self.done)
        digests = self._digests[own]
        # The first of those of one digest stands at its own place among them.
        return own[rows_of_digests(digests, digests) == np.arange(len(own))].tolist()


def encode_changes(
    building: Path,
    job: Job,
    content: Content,
    old: Generation | None,
    how: Mapping[str, Any],
    early: Processes | None,
) -> Vectors | None:
    """Encodes the products whose vectors are not known yet.

    Returns None where other jobs of an array have not done their shares.

    Args:
        building: folder that keeps what is done.
        job: the model.
        content: the products.
        old: a state of the index whose vectors are this model's, if there is one.
        how: `workers`, `ray`, `array` and `gpus` of `run_plan`.
        early: processes that have loaded the model.

    Raises:
        OSError: a part cannot be written.
        ValueError: a product cannot be read, or its vector is not finite.
        RuntimeError: a process was killed.
    """
    known = _Taken(content.digests, job.dim)
    if old:
        known.take(old.digests(), old.vectors, np.ones(len(old), dtype=bool))
    folder = plan_folder(building, job, content.digests[known.open()])
    taken = set()
    for path, keys, part in read_parts(building, made_by(job)):
        known.take(keys, *part)
        taken.add(path)
    todo, rows = int((~known.done).sum()), known.open()
    if rows or folder.is_dir():
        products = [content.products[row] for row in rows]
        plan = plan_parts(folder, job, products, content.digests[rows])
        run_parts(plan, job, len(rows), how, early)
        if how["array"] and not is_done(plan):
            return None
        names = [name for sidecar in results(plan) for name in sidecar.files]
        for path in (folder / name for name in names):
            if path not in taken:
                keys, part = read_part(path, made_by(job))
                known.take(keys, *part)
    if not known.done.all():
        raise ValueError(f"{folder}: a plan of other products: remove this folder")
    return Vectors(known.vectors, known.present, todo)
