"""Encodes products in parts, by processes or by many machines, and keeps what is done.

A part is a file of vectors with the digests of the products that they belong to. So a build that
was killed takes up every part that it had finished, whatever has changed in between.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from msgspec import Struct
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from beyond_text.files import sha256_of
from beyond_text.indexing.arrow_files import DIGEST, open_arrow, write_arrow
from beyond_text.indexing.encoders import Job, Part, encode_by, encoder_of, load_encoder, uses_gpu
from beyond_text.indexing.source import WIDTH, Digests
from beyond_text.retrieval.described import Described, Place
from beyond_text.shards.store import folder_of
from beyond_text.tasks.cores import cores
from beyond_text.tasks.plan import PLAN, Plan
from beyond_text.tasks.processes import Processes
from beyond_text.tasks.run import run_plan

# Most and fewest products of a part: what a kill can cost each process.
PART, LEAST = 512, 64
# Parts that a small catalogue is split into, whoever encodes them.
PARTS = 32
# What takes seconds to import for an encoder of either kind.
OF_EXPORTS = ("beyond_text.encoding.export_model",)
OF_RUNS = ("beyond_text.retrieval.run", "beyond_text.retrieval.encode")
# The products of a plan, in its folder.
PRODUCTS = "products.arrow"
SCHEMA = {"digest": DIGEST, "product_id": pa.string(), "text": pa.string(), "pictures": pa.string()}


class Rows(Struct, frozen=True):
    """A task: encodes the products from `first` to before `end` of the `total` of a file.

    The file's SHA-256 stands here so that a plan is one of its content.
    """

    model: str
    digest: str
    root: str
    dim: int
    first: int
    end: int
    total: int
    products: str


def made_by(job: Job) -> dict[str, str]:
    """Says in a part what its vectors were made by."""
    return {"model": job.model.digest, "dim": str(job.dim)}


def plan_folder(building: Path, job: Job, digests: Digests) -> Path:
    """Returns where the parts of products lie, by what decides them."""
    named = [*made_by(job).values(), str(job.model.path.resolve()), str(job.root), str(PART)]
    key = hashlib.sha256("\n".join(named).encode() + digests.tobytes()).hexdigest()
    return building / key[:16]


def read_parts(folder: Path, made_by: Mapping[str, str]) -> Iterator[tuple[Path, Digests, Part]]:
    """Yields the parts below a folder; one of another model, or damaged, is deleted."""
    for path in sorted(folder.rglob("*.safetensors")):
        try:
            yield path, *read_part(path, made_by)
        except (SafetensorError, OSError, ValueError):
            path.unlink(missing_ok=True)


def read_part(path: Path, made_by: Mapping[str, str]) -> tuple[Digests, Part]:
    """Reads a part.

    Raises:
        SafetensorError, OSError, ValueError: it is none, or one of another model.
    """
    with safe_open(path, "np") as file:
        if file.metadata() != dict(made_by):
            raise ValueError(f"{path}: a part of another model")
        digests, *part = (file.get_tensor(n) for n in ("digests", *Part._fields))
    vectors, present = part
    fits = (
        digests.dtype == np.uint8
        and digests.shape == (len(vectors), WIDTH)
        and vectors.dtype == np.float16
        and vectors.shape == (len(vectors), int(made_by["dim"]))
        and present.dtype == bool
        and present.shape == (len(vectors),)
    )
    if not fits:
        raise ValueError(f"{path}: a part of other shapes")
    return digests, Part(vectors, present)


def plan_parts(folder: Path, job: Job, products: Sequence[Described], digests: Digests) -> Plan:
    """Plans to encode products; where a plan is in the folder, that one.

    Raises:
        OSError: it cannot be written.
    """
    path = folder / PRODUCTS
    if not (folder / PLAN).exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_arrow(path, _table(products, digests))
    with pa.memory_map(str(path)) as source:
        total = pa.ipc.open_file(source).read_all().num_rows
    size = min(PART, max(LEAST, -(-total // PARTS)))
    content = sha256_of(path)
    names = str(job.model.path.resolve()), job.model.digest, str(job.root)
    tasks = [
        Rows(*names, job.dim, first, min(first + size, total), total, content)
        for first in range(0, total, size)
    ]
    return Plan(folder, f"{__name__}:encode_rows", tasks)


def _table(products: Sequence[Described], digests: Digests) -> pa.Table:
    """Makes a table of what is encoded of products."""
    ids, words = [each.product_id for each in products], [each.text for each in products]
    places = [msgspec.json.encode(each.pictures).decode() for each in products]
    keys = [digest.tobytes() for digest in digests]
    columns = (keys, ids, words, places)
    pairs = zip(columns, SCHEMA.values(), strict=True)
    return pa.table([pa.array(list(values), kind) for values, kind in pairs], list(SCHEMA))


def encode_rows(task: Rows, out: Path) -> dict[str, int]:
    """Encodes products of the plan's file, and writes a part.

    Raises:
        OSError: the part cannot be written.
        ValueError: a product cannot be read, or its vector is not finite.
    """
    table = _products(out.parent / PRODUCTS, task.total, task.products)
    rows = table.slice(task.first, task.end - task.first).to_pydict()
    products = [
        Described(name, text, {}, msgspec.json.decode(places, type=tuple[Place, ...]))
        for name, text, places in zip(
            rows["product_id"], rows["text"], rows["pictures"], strict=True
        )
    ]
    encode = encoder_of(Path(task.model), task.digest, folder_of(task.root), task.dim)
    part = encode(products)
    digests = np.frombuffer(b"".join(rows["digest"]), dtype=np.uint8).reshape(-1, WIDTH)
    arrays = {"digests": digests, **part._asdict()}
    content = save(arrays, {"model": task.digest, "dim": str(task.dim)})
    (out / f"{task.first:09}.safetensors").write_bytes(content)
    return {"products": len(products), "vectors": int(part.present.sum())}


@lru_cache(1)
def _products(path: Path, total: int, content: str) -> pa.Table:
    """Maps the products of a plan into memory, once a process."""
    return open_arrow(path, total, SCHEMA)


def start_processes(job: Job, workers: int) -> Processes | None:
    """Starts processes that load the model, so that they have it when there is work for them.

    Returns None where one process encodes best: for one core or one GPU.
    """
    if workers == 1 or uses_gpu(job.model):
        return None
    imports = OF_EXPORTS if job.model.is_export else OF_RUNS
    return Processes(workers, load_encoder, (job,), imports=imports)


def run_parts(
    plan: Plan, job: Job, count: int, how: Mapping[str, Any], processes: Processes | None
) -> None:
    """Does the tasks of a plan as `run_plan` does with `how`.

    Args:
        plan: of `plan_parts`.
        job: the model.
        count: of the products that are not done; few are encoded in this process.
        how: `workers`, `ray`, `array` and `gpus` of `run_plan`.
        processes: that have loaded the model, if any have.

    Raises:
        OSError: a part cannot be written.
        ValueError: a product cannot be read, or its vector is not finite.
        RuntimeError: a process was killed.
    """
    how = dict(how)
    if how["ray"] is None and processes is None and not how["gpus"]:
        workers = how["workers"] or cores()
        on_gpu = uses_gpu(job.model)
        # So few products are encoded before other processes have started.
        if on_gpu or workers == 1 or count <= PART:
            encode_by(job._replace(threads=workers, loaders=workers if on_gpu else 0))
            how["workers"] = 1
    try:
        run_plan(plan, label="encoding products", processes=processes, **how)
    finally:
        encode_by(None)
