"""Builds an index of a catalogue, or brings one up to date; a new state appears whole.

Only products whose text or pictures have changed are encoded, or all where the model has. What is
done is kept in INDEX/building until the new generation stands, so a build that is killed goes on.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace

from beyond_text.config.names import INDEX_FILE as FILE
from beyond_text.config.names import IndexKind
from beyond_text.files import atomic_write, errors_name
from beyond_text.indexing.arrow_files import open_arrow, rows_of_digests
from beyond_text.indexing.asked import vectors_asked
from beyond_text.indexing.copied_pictures import copy_pictures, remove_pictures
from beyond_text.indexing.encode_parts import start_processes
from beyond_text.indexing.encoders import Job
from beyond_text.indexing.facts import (
    GENERATIONS,
    VERSION,
    Facts,
    IndexFormatError,
    KeptModel,
    Source,
    files_of,
    read_facts,
    write_facts,
)
from beyond_text.indexing.faiss_cache import forget_nearest, open_nearest, update_nearest
from beyond_text.indexing.generation import (
    ASKED,
    PRODUCTS,
    VECTORS,
    Generation,
    words_of_products,
    write_products,
)
from beyond_text.indexing.models import MODELS, ModelFacts, keep_model
from beyond_text.indexing.seen import Seen
from beyond_text.indexing.source import (
    Content,
    Digests,
    Known,
    describe_source,
    read_content,
    root_of,
)
from beyond_text.indexing.vectors import Vectors, encode_changes
from beyond_text.retrieval.described import Described
from beyond_text.retrieval.lexical import Lexical
from beyond_text.retrieval.nearest import Nearest, recall
from beyond_text.shards.store import Folder
from beyond_text.tables.layouts import TableError
from beyond_text.tasks.cores import cores
from beyond_text.tasks.lock import Lock, locked
from beyond_text.tasks.processes import Processes
from beyond_text.terminal import say

BUILDING = "building"
# Products of an index from which on processes are started before its source is read.
MANY = 20_000


class Options(NamedTuple):
    """How an index is built.

    Attributes:
        kind: of the search over its vectors.
        dim: width of the vectors that are kept; None for the model's.
        workers: processes that encode, or actors of Ray; None for one a core.
        ray: address of the Ray cluster that encodes; None for processes.
        array: (I, N) encodes the I-th of N shares, from 0; None all.
        gpus: that a process or actor takes; 0 for this process on one, where there is one.
        split: whose products; None for those of every split.
        weight: of vectors beside words, where a search names none.
        copy_pictures: whether the index holds the main pictures.
        keep_model: whether it holds what encodes queries.
    """

    kind: IndexKind = "exact"
    dim: int | None = None
    workers: int | None = None
    ray: str | None = None
    array: tuple[int, int] | None = None
    gpus: float = 0
    split: str | None = None
    weight: float = 1.0
    copy_pictures: bool = False
    keep_model: bool = True


class Built(NamedTuple):
    """What a build did: the facts of the index, and how many products were dealt with how."""

    facts: Facts
    encoded: int
    kept: int
    removed: int
    left_out: int


def build_index(folder: Folder, index: Path, model: ModelFacts, options: Options) -> Built | None:
    """Makes `index` an index of the products of a folder.

    Returns None from a job of an array when others have not done their shares yet: the last makes
    the index.

    Raises:
        TableError, ShardError, RejectError: the products cannot be used.
        ValueError: `index` is something else, or a setting does not fit the model.
        BlockingIOError: another process builds it.
        OSError: it cannot be written.
    """
    dim = _width(model, options)
    workers = options.workers or cores()
    _check_place(index)
    source = describe_source(folder, index, options.split)
    how = {name: getattr(options, name) for name in ("workers", "ray", "array", "gpus")}
    with _locked(index, shared=options.array is not None) as lock:
        job = Job(model, root_of(folder, source), dim)
        with _early(job, index, options, workers) as early:
            old, files = _earlier(index), Seen(index)
            known = old.known() if old else Known()
            reused = old if old and _fits(old.facts, model.digest, dim) else None
            content = read_content(
                folder, options.split, model.reads, source, known, files, workers
            )
            files.save()
            with ThreadPoolExecutor(1) as beside:
                # Other processes encode meanwhile.
                words = (
                    None if options.array else beside.submit(words_of_products, content.products)
                )
                vectors = encode_changes(index / BUILDING, job, content, reused, how, early)
        if vectors is None or (options.array and not _is_last(lock, index, old)):
            return None
        if not vectors.present.any():
            raise TableError(f"{folder}: no product has a text or a picture")
        return _write(index, model, content, source, vectors, words, options, old)


def _early(
    job: Job, index: Path, options: Options, workers: int
) -> AbstractContextManager[Processes | None]:
    """Starts processes for an update: to load a model takes as long as to read so many products."""
    with suppress(IndexFormatError):
        if options.ray is None and not options.gpus and read_facts(index).products >= MANY:
            return start_processes(job, workers) or nullcontext()
    return nullcontext()


def _write(
    index: Path,
    model: ModelFacts,
    content: Content,
    source: Source,
    found: Vectors,
    words: Future[Lexical] | None,
    options: Options,
    old: Generation | None,
) -> Built:
    """Writes the new state; `words`, if any, are those of all products, left out or not."""
    vectors, present, encoded = found
    kept = [p for p, there in zip(content.products, present, strict=True) if there]
    own_words = words.result() if words and present.all() else words_of_products(kept)
    rows = present.nonzero()[0]
    if options.copy_pictures:
        copy_pictures(index, content, rows, options.workers or cores())
    facts = Facts(
        version=VERSION,
        generation=1 + (old.facts.generation if old else 0),
        model=model.digest,
        model_dim=model.dim,
        dim=vectors.shape[1],
        kind=options.kind,
        recall_at_10=1.0,
        weight=options.weight,
        products=len(kept),
        columns={},
        source=source,
        copied=options.copy_pictures,
        query_model=keep_model(model, index) if options.keep_model else KeptModel("", {}),
        files={},
    )
    digests = content.digests[rows], content.pictures[rows]
    asked = None
    if options.kind != "exact":
        reused = old if old and _fits(old.facts, model.digest, vectors.shape[1]) else None
        asked = vectors_asked(model, vectors.shape[1], kept, vectors[rows], reused)
    facts = write_state(index, facts, kept, vectors[rows], digests, own_words, old, asked)
    _tidy(index, facts, old)
    before = old.products["product_id"].to_pylist() if old else []
    removed = len({*before} - {each.product_id for each in kept})
    left_out = len(present) - len(kept)
    return Built(facts, encoded, len(kept) + left_out - encoded, removed, left_out)


def _width(model: ModelFacts, options: Options) -> int:
    """Returns the width of the vectors to keep; says where a model was not trained for it."""
    dim = model.dim if options.dim is None else options.dim
    if not 0 < dim <= model.dim:
        raise ValueError(f"dim: expected 1 to {model.dim}, the width of the model, got {dim}")
    if dim != model.dim and dim not in model.widths:
        known = ", ".join(map(str, model.widths)) or "no other width"
        line = f"dim {dim}: the model's vectors were trained to be cut to {known} (`matryoshka`)"
        say(line)
    return dim


def write_state(
    index: Path,
    facts: Facts,
    products: Sequence[Described],
    vectors: np.ndarray,
    digests: tuple[Digests, Digests],
    words: Lexical,
    old: Generation | None = None,
    asked: np.ndarray | None = None,
) -> Facts:
    """Writes a generation, then index.json; returns the facts with what was written.

    Where they are those of the state that is there, it stays.

    Args:
        index: the folder.
        facts: what index.json is to say; columns and files are left open.
        products: in descending order of their product_ids.
        vectors: float16, one for each product.
        digests: of each product, and of its main picture.
        words: by which the products are searched.
        old: the state that is there.
        asked: float16 vectors of queries like those to come; an exact search needs none.
    """
    place = _fresh(index / facts.place)
    with atomic_write(place / VECTORS, binary=True) as file:
        np.save(file, vectors, allow_pickle=False)
    if asked is not None:
        with atomic_write(place / ASKED, binary=True) as file:
            np.save(file, asked, allow_pickle=False)
    columns = write_products(place, products, *digests, words)
    facts = replace(facts, columns=columns, files=files_of(place))
    if old:
        recall_at_10, generation = old.facts.recall_at_10, old.facts.generation
        if replace(facts, recall_at_10=recall_at_10, generation=generation) == old.facts:
            shutil.rmtree(place)
            return old.facts
    mapped = np.load(place / VECTORS, mmap_mode="r")
    queries = None if asked is None else asked.astype(np.float32)
    nearest = _nearest(facts, mapped, digests[0], old, queries)
    share = 1.0 if queries is None else recall(nearest, queries)
    facts = replace(facts, recall_at_10=share)
    write_facts(index, facts)
    return facts


def _nearest(
    facts: Facts,
    vectors: np.ndarray,
    digests: Digests,
    old: Generation | None,
    queries: np.ndarray | None,
) -> Nearest:
    """Returns the search over vectors, from that of the state before where there is one."""
    own = facts.files[VECTORS].sha256
    if facts.kind == "exact" or not old or not _fits(old.facts, facts.model, facts.dim):
        return open_nearest(facts.kind, vectors, own, queries)
    rows = rows_of_digests(digests, old.digests())
    before = old.facts.files[VECTORS].sha256
    found = update_nearest(facts.kind, (old.vectors, before), vectors, own, rows, queries)
    if own != before:
        forget_nearest(facts.kind, before)
    return found


def _check_place(index: Path) -> None:
    """Raises ValueError where the folder holds something else."""
    ours = (FILE, BUILDING, GENERATIONS)
    if index.exists() and not index.is_dir():
        raise ValueError(f"{index}: expected a folder, or nothing there yet")
    if index.is_dir() and any(index.iterdir()) and not any((index / n).exists() for n in ours):
        raise ValueError(f"{index}: expected a new or empty folder or an index, got neither")


@contextmanager
def _locked(index: Path, shared: bool) -> Iterator[Lock]:
    """Lets one process at a time build an index, or the jobs of an array; a kill frees it."""
    building = index / BUILDING
    with errors_name(building):
        building.mkdir(parents=True, exist_ok=True)
        message = f"{index}: another process builds this index: wait until it is done"
        with locked(index / ".lock", message, shared) as lock:
            yield lock


def _is_last(lock: Lock, index: Path, old: Generation | None) -> bool:
    """Says whether a job of an array is to make the index, which from then on it does alone."""
    if not lock.is_last():
        return False
    now = _earlier(index)
    # Another may have made it in between.
    return (now.facts.generation if now else 0) == (old.facts.generation if old else 0)


def _earlier(index: Path) -> Generation | None:
    """Opens what the index is now; None where there is none, or it cannot be used."""
    if not (index / FILE).exists():
        return None
    try:
        return Generation.open(index)
    except IndexFormatError as error:
        say(f"{error}; everything is encoded again")
        return None


def _fits(facts: Facts, model: str, dim: int) -> bool:
    """Says whether vectors are those of a model, by its digest, at a width."""
    return facts.model == model and facts.dim == dim


def _fresh(folder: Path) -> Path:
    """Makes an empty folder; what a killed build left there goes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _tidy(index: Path, facts: Facts, old: Generation | None) -> None:
    """Removes what nobody needs: parts, and generations and models but the last two."""
    states = [facts, *([old.facts] if old else [])]
    wanted = {
        GENERATIONS: {str(each.generation) for each in states},
        MODELS: {each.query_model.name for each in states},
    }
    for folder, names in wanted.items():
        for place in (index / folder).glob("*"):
            if place.name not in names:
                shutil.rmtree(place, ignore_errors=True)
    copied = [open_arrow(index / s.place / PRODUCTS, s.products) for s in states if s.copied]
    remove_pictures(index, [d for table in copied for d in table["picture"].to_pylist()])
    shutil.rmtree(index / BUILDING, ignore_errors=True)
