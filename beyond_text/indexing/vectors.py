"""Finds a vector for each product: an earlier index's, one of a killed build, or a new one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

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
from beyond_text.indexing.source import Content
from beyond_text.tasks.processes import Processes
from beyond_text.tasks.run import is_done, results


class Vectors(NamedTuple):
    """A vector for each product, which products have one, and how many were encoded."""

    vectors: np.ndarray
    present: np.ndarray
    encoded: int


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
    digests = content.digests
    vectors = np.zeros((len(digests), job.dim), dtype=np.float16)
    present = np.zeros(len(digests), dtype=bool)
    done = np.zeros(len(digests), dtype=bool)
    rows_of: dict[bytes, list[int]] = {}
    for row, digest in enumerate(digests):
        rows_of.setdefault(digest.tobytes(), []).append(row)

    def take(keys: np.ndarray, found: np.ndarray, there: Sequence[bool] | np.ndarray) -> None:
        for key, vector, is_there in zip(keys, found, there, strict=True):
            rows = rows_of.get(key.tobytes(), [])
            vectors[rows], present[rows], done[rows] = vector, is_there, True

    def firsts() -> list[int]:
        return [rows[0] for rows in rows_of.values() if not done[rows[0]]]

    if old:
        take(old.digests(), old.vectors, np.ones(len(old), dtype=bool))
    folder = plan_folder(building, job, digests[firsts()])
    taken = set()
    for path, keys, part in read_parts(building, made_by(job)):
        take(keys, *part)
        taken.add(path)
    todo, rows = int((~done).sum()), firsts()
    if rows or folder.is_dir():
        plan = plan_parts(folder, job, [content.products[row] for row in rows], digests[rows])
        run_parts(plan, job, len(rows), how, early)
        if how["array"] and not is_done(plan):
            return None
        names = [name for sidecar in results(plan) for name in sidecar.files]
        for path in (folder / name for name in names):
            if path not in taken:
                keys, part = read_part(path, made_by(job))
                take(keys, *part)
    if not done.all():
        raise ValueError(f"{folder}: a plan of other products: remove this folder")
    return Vectors(vectors, present, todo)
