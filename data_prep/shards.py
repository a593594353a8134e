"""Packs tables into a folder of WebDataset shards, which is complete or is not there.

python -m data_prep.shards TABLES OUT
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from beyond_text.config.urls import path_of
from beyond_text.files import atomic_folder
from beyond_text.shards.manifest import FILE, VERSION, EarlierError, ShardError, read_manifest
from beyond_text.tables.layouts import DEFAULT_LAYOUT, Layout, MissingError, TableError
from beyond_text.tables.pictures import MAX_PIXELS
from beyond_text.tables.read import read_tables
from beyond_text.tables.rejects import MAX_REJECTED, RejectError, Rejects
from beyond_text.tables.tables import Tables
from data_prep.adapters import ADAPTERS, add_layout_options, layout_of
from data_prep.rejects import BuildError
from data_prep.splits import write_splits

# Words for faults of the machine rather than of the tables.
FAULTS: dict[type[BaseException], str] = {
    OSError: "not written",
    BrokenProcessPool: "a process that reduces pictures was killed, perhaps for want of memory",
}


def build_shards(
    tables_path: Path,
    out: Path,
    layout: Layout = DEFAULT_LAYOUT,
    picture_size: int = 256,
    max_pixels: int = MAX_PIXELS,
    samples_per_shard: int = 1000,
    max_rejected: float = MAX_REJECTED,
    workers: int | None = None,
    dev_share: float = 0.1,
    seed: int = 0,
    pictures: Path | None = None,
    test_share: float = 0.0,
    grades: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Writes `out`: shards, queries and judgments of every split, and a manifest.

    Where a picture cannot be used, its product or query is kept by its text, or rejected too.
    Returns the manifest, as written to manifest.json.

    Args:
        tables_path: what `read_tables` takes.
        out: folder to make; replaced if it is empty or holds an earlier build.
        layout: whose files they are.
        picture_size: longest side of the stored pictures, in pixels.
        max_pixels: most pixels a source picture's header may announce.
        samples_per_shard: most products in one tar file.
        max_rejected: share of any one file's rows, 0 to 1, above which nothing is built.
        workers: processes that reduce pictures; None for one per core.
        dev_share: share put into dev where the tables name no splits.
        seed: of the order of the samples within a split.
        pictures: folder in which the pictures lie; None for that of the tables.
        test_share: share put into test where the tables name no splits.
        grades: columns of judgments that are grades; None for the layout's.

    Raises:
        BuildError: too much is rejected (OUT.rejects.csv then lists it), nothing is left, `out`
            holds something else, the disk is full or a worker was killed. An earlier build stays.
        TableError: the tables cannot be read.
    """
    tables_path, out = Path(tables_path).resolve(), Path(out).resolve()
    if min(samples_per_shard, picture_size) < 1:
        raise BuildError("samples_per_shard and picture_size must be at least 1")
    (left_rejects := out.with_name(f"{out.name}.rejects.csv")).unlink(missing_ok=True)
    with _as_build_error(out), atomic_folder(out, _is_build) as folder:
        tables = read_tables(tables_path, layout, dev_share, pictures, test_share, grades)
        rejects = _rejects(tables, max_rejected, left_rejects, layout)
        limits = workers, samples_per_shard, seed, picture_size, max_pixels
        written = write_splits(tables, folder, rejects, *limits)
        return _write_manifest(folder, tables_path, tables, rejects, *written, picture_size)


def _rejects(tables: Tables, max_share: float, list_path: Path, layout: Layout) -> Rejects:
    """Begins the list of a build's rejects with those of its tables."""
    found = tables.rejects, tables.files.values()
    rejects = Rejects(*found, max_share, list_path, layout.name)
    rejects.check()
    return rejects


@contextmanager
def _as_build_error(out: Path) -> Iterator[None]:
    """Turns faults of the machine, and an `out` that is no build, into a BuildError."""
    try:
        yield
    except (FileExistsError, RejectError) as error:
        raise BuildError(str(error)) from error
    except tuple(FAULTS) as error:
        reason = next(words for fault, words in FAULTS.items() if isinstance(error, fault))
        raise BuildError(f"{out}: {reason}: {error}; nothing of it is kept") from error


def _write_manifest(
    folder: Path,
    tables_path: Path,
    tables: Tables,
    rejects: Rejects,
    splits: dict[str, dict[str, Any]],
    crossing: dict[str, dict[str, int]],
    picture_size: int,
) -> dict[str, Any]:
    """Writes rejects.csv, then manifest.json, and returns the manifest.

    An empty file of pairs gives an empty train split, for there may be shops without designs.

    Raises:
        BuildError: no product is left.
    """
    file = tables.files["products"]
    without_pairs = file.name.endswith(".jsonl") and not file.rows
    if not without_pairs and not any(entry["products"] for entry in splits.values()):
        raise BuildError(f"{tables_path}: no product is left to write")
    highest = tables.qrels[tables.grades].max() if len(tables.qrels) else {}
    manifest = {
        "version": VERSION,
        "source": tables_path.name,
        "picture_size": picture_size,
        "products_have_split": tables.products_have_split,
        "grades": {name: {"max": float(highest.get(name, 0.0))} for name in tables.grades},
        "splits": splits,
        "crossing": crossing,
        "rejects": rejects.by_reason(),
        "left_out": {file.name: file.left_out for file in rejects.files if file.left_out},
    }
    rejects.write(folder / "rejects.csv")
    text = json.dumps(manifest, indent=1, ensure_ascii=False)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")
    return manifest


def _is_build(folder: Path) -> bool:
    """Says whether a folder is a finished build."""
    try:
        read_manifest(folder)
    except EarlierError:
        return True
    except ShardError:
        # Folders of other programs may have a manifest.json too.
        return False
    return True


def _parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m data_prep.shards", description=__doc__)
    parser.add_argument("tables", type=path_of, help="folder of tables, an export, a log or pairs")
    parser.add_argument("out", type=path_of, help="folder to make")
    add_layout_options(parser)
    parser.add_argument("--picture-size", type=int, default=256, help="longest side, in pixels")
    parser.add_argument("--max-pixels", type=int, default=MAX_PIXELS)
    parser.add_argument("--samples-per-shard", type=int, default=1000)
    parser.add_argument(
        "--max-rejected", type=float, default=MAX_REJECTED, help="share of a file's rows"
    )
    parser.add_argument("--workers", type=int, help="default: one per core")
    parser.add_argument("--dev-share", type=float, default=0.1)
    parser.add_argument("--test-share", type=float, default=0.0)
    parser.add_argument("--pictures", type=Path, help="folder of the pictures, default: TABLES")
    parser.add_argument(
        "--absent-pictures",
        action="store_true",
        help="pictures that are URLs or missing are no rejects",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Builds from the command line; prints the counts, or prints the error and returns 1."""
    arguments = vars(_parser().parse_args(argv))
    name = arguments.pop("layout")
    layout = layout_of(name)
    if arguments.pop("absent_pictures"):
        layout = replace(layout, absent_pictures=True)
    try:
        manifest = build_shards(arguments.pop("tables"), arguments.pop("out"), layout, **arguments)
    except (BuildError, TableError) as error:
        known = f"; for an export give --layout: {', '.join(sorted(ADAPTERS))}"
        advice = known if isinstance(error, MissingError) and not name else ""
        print(f"error: {error}{advice}", file=sys.stderr)
        return 1
    _print_counts(manifest)
    return 0


def _print_counts(manifest: dict[str, Any]) -> None:
    """Prints what each split holds, what train holds too, and what was rejected."""
    for split, entry in manifest["splits"].items():
        counts = {**entry, "shards": len(entry["shards"])}
        counts = {name: value for name, value in counts.items() if name not in ("asked", "judged")}
        query_pictures = sum(shard["samples"] for shard in counts.pop("query_shards", []))
        counts |= {"query_pictures": query_pictures} if query_pictures else {}
        line = ", ".join(f"{value} {key.replace('_', ' ')}" for key, value in counts.items())
        print(f"{split}: {line}")
    for split, counts in manifest["crossing"].items():
        shared = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        print(f"{split} and train share: {shared or 'nothing'}")
    rejected = ", ".join(f"{count} {reason}" for reason, count in manifest["rejects"].items())
    print(f"rejected: {rejected or 'nothing'}")


if __name__ == "__main__":
    sys.exit(main())
