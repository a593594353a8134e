"""Makes a build of the shards that a plan's tasks have written, once all are there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from beyond_text.files import sha256_of
from beyond_text.shards.manifest import FILE, VERSION
from beyond_text.tables.layouts import Reject
from beyond_text.tables.rejects import Rejects
from beyond_text.tasks.plan import Plan
from beyond_text.tasks.run import results
from beyond_text.tasks.sidecar import Sidecar
from data_prep.crossing import count_crossing
from data_prep.frozen import Facts, SplitFacts, column, open_rows
from data_prep.judgments import (
    Numbers,
    rank_queries,
    unused_judgments,
    write_asked,
    write_judged,
)
from data_prep.rejects import BuildError
from data_prep.shard import BECAME, Shard


class _Parts(NamedTuple):
    """The shards of a table of a split, what became of its rows, and their rejects."""

    shards: list[dict[str, Any]]
    counts: Mapping[str, int]
    became: pa.Table
    rejects: list[Reject]


class _Build(NamedTuple):
    """What every split needs: where rows and shards lie, and the sidecars of both tables by split.

    `tasks` and `done` stand beside each other.
    """

    rows: Path
    plan: Plan
    done: Sequence[Sidecar]
    out: Path
    rejects: Rejects
    facts: Facts

    def parts(self, table: str, split: str) -> _Parts:
        """Gathers the shards of a table of a split, and links them into the build."""
        name = split if table == "products" else f"queries-{split}"
        shards: list[dict[str, Any]] = []
        rejects: list[Reject] = []
        became = [BECAME.empty_table()]
        counts = dict.fromkeys(("samples", "texts", "pictures", "further_pictures"), 0)
        for task, done in zip(self.plan.tasks, self.done, strict=True):
            assert isinstance(task, Shard)
            if (task.table, task.split) != (table, split):
                continue
            counts = {each: count + done.counts[each] for each, count in counts.items()}
            became.append(open_rows(self.plan.folder / f"{task.name}.arrow").read_all())
            data = (self.plan.folder / f"{task.name}.rejects.json").read_bytes()
            rejects += msgspec.json.decode(data, type=list[Reject])
            if done.counts["samples"]:
                number = f"{name}-{len(shards):05d}"
                shards.append(self._entry(task.name, number, done))
        return _Parts(shards, counts, pa.concat_tables(became), rejects)

    def _entry(self, task: str, name: str, done: Sidecar) -> dict[str, Any]:
        """Links the files of a shard; returns its entry in the manifest."""
        tar, index = (
            {"file": f"{name}{end}"} | msgspec.to_builtins(done.files[f"{task}{end}"])
            for end in (".tar", ".npy")
        )
        for end in (".tar", ".npy"):
            _link(self.plan.folder / f"{task}{end}", self.out / f"{name}{end}")
        return {"samples": done.counts["samples"]} | tar | {"index": index}


def finish(
    rows: Path, plan: Plan, facts: Facts, out: Path, rejects: Rejects, picture_size: int
) -> dict[str, Any]:
    """Fills `out` with a build; returns the manifest, which is written last.

    Args:
        rows: folder of the rows.
        plan: whose tasks are done.
        facts: of the tables.
        out: empty folder.
        rejects: those of the tables.
        picture_size: longest side of the stored pictures, in pixels.

    Raises:
        PlanError: a task is not done, or a file is not what it was.
        RejectError: too much is rejected.
        BuildError: no product is left.
    """
    build = _Build(rows, plan, results(plan), out, rejects, facts)
    splits = {split.name: _finish_split(split, build) for split in facts.splits}
    rejects.check()
    file = facts.files["products"]
    # An empty file of pairs gives an empty train split, for there may be shops without designs.
    without_pairs = file.name.endswith(".jsonl") and not file.rows
    if not without_pairs and not any(entry["products"] for entry in splits.values()):
        raise BuildError(f"{facts.source}: no product is left to write")
    became: dict[str, list[Path]] = {split.name: [] for split in facts.splits}
    for task in plan.tasks:
        if isinstance(task, Shard) and task.table == "products":
            became[task.split].append(plan.folder / f"{task.name}.arrow")
    manifest = {
        "version": VERSION,
        "source": Path(facts.source).name,
        "picture_size": picture_size,
        "products_have_split": facts.products_have_split,
        "grades": {name: {"max": highest} for name, highest in facts.grades.items()},
        "splits": splits,
        "crossing": count_crossing(rows, facts, became),
        "rejects": rejects.by_reason(),
        "left_out": {file.name: file.left_out for file in rejects.files if file.left_out},
    }
    rejects.write(out / "rejects.csv")
    text = json.dumps(manifest, indent=1, ensure_ascii=False)
    (out / FILE).write_text(text + "\n", encoding="utf-8")
    return manifest


def _finish_split(split: SplitFacts, build: _Build) -> dict[str, Any]:
    """Adds the files of a split; returns its entry in the manifest."""
    name, facts, rejects = split.name, build.facts, build.rejects
    pictured = build.parts("queries", name)
    rejects.add(*pictured.rejects)
    is_used, picture = _queries(build.rows, name, pictured.became)
    query = rank_queries(build.rows, name, is_used)
    products = build.parts("products", name)
    sample = _numbered(products.became["is_used"])
    numbers = Numbers(sample, query, picture, products.became["source"])
    of_split = build.rows, name
    rejects.add(*unused_judgments(*of_split, "query", numbers, facts.judged))
    rejects.add(*products.rejects)
    rejects.add(*unused_judgments(*of_split, "product", numbers, facts.judged))
    asked, judged = (build.out / f"{kind}-{name}.arrow" for kind in ("asked", "judged"))
    write_asked(*of_split, numbers, asked)
    positive = write_judged(*of_split, numbers, list(facts.grades), judged)
    entry = {
        "products": products.counts["samples"],
        "pictures": products.counts["pictures"],
        "texts": products.counts["texts"],
        "queries": int(is_used.sum()),
        "judged_pairs": positive,
        "shards": products.shards,
        "asked": _file_entry(asked),
        "judged": _file_entry(judged),
    }
    optional = {
        "query_shards": pictured.shards,
        "further_pictures": products.counts["further_pictures"],
    }
    return entry | {key: value for key, value in optional.items() if value}


def _queries(rows: Path, split: str, became: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Returns which queries of a split are used, and the number of each one's picture or -1."""
    is_pictured = np.array([image != "" for image in column(rows, "queries", split, "image")
                            .to_pylist()], dtype=bool)  # fmt: skip
    is_used = np.ones(len(is_pictured), dtype=bool)
    is_used[is_pictured] = became["is_used"].to_numpy()
    picture = np.full(len(is_pictured), -1, dtype=np.int64)
    picture[is_pictured] = _numbered(became["pictures"].to_numpy() > 0)
    return is_used, picture


def _numbered(is_there: Any) -> np.ndarray:
    """Numbers the true values from 0; the others get -1."""
    chosen = np.asarray(is_there, dtype=bool)
    return np.where(chosen, np.cumsum(chosen) - 1, -1)


def _file_entry(path: Path) -> dict[str, Any]:
    """Makes the manifest's entry of a file."""
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _link(source: Path, target: Path) -> None:
    """Gives a file a second name, or copies it where the disk has no such."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
