"""Packs tables into a folder of WebDataset shards, which is complete or is not there.

python -m data_prep.shards TABLES OUT
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from beyond_text.config.urls import path_of
from beyond_text.files import atomic_folder, check_replaceable
from beyond_text.shards.manifest import EarlierError, ShardError, read_manifest
from beyond_text.tables.layouts import DEFAULT_LAYOUT, Layout, MissingError, TableError
from beyond_text.tables.pictures import MAX_PIXELS
from beyond_text.tables.rejects import MAX_REJECTED, RejectError
from beyond_text.tasks.lock import locked
from beyond_text.tasks.options import add_run_options, run_options
from beyond_text.tasks.plan import PlanError
from beyond_text.tasks.run import is_done, run_plan
from beyond_text.terminal import command_parser
from data_prep.adapters import ADAPTERS, add_layout_options, layout_of
from data_prep.finish import finish
from data_prep.frozen import Facts, read_facts, read_rejects
from data_prep.planned import (
    Options,
    discard,
    forget_changed,
    plan_of,
    prepare,
    rejects_of,
    work_folders,
)
from data_prep.rejects import BuildError, check_max_pixels

# Products of which one process makes shards before others have started.
FEW = 2000


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
    **run: Any,
) -> dict[str, Any]:
    """Writes `out`: shards, queries and judgments of every split, and a manifest.

    Where a picture cannot be used, its product or query is kept by its text, or rejected too.
    A killed build goes on. Returns the manifest; nothing where `array` leaves shards to others.

    Args:
        tables_path: what `read_tables` takes.
        out: folder to make; replaced if it is empty or holds an earlier build.
        layout: whose files they are.
        picture_size: longest side of the stored pictures, in pixels.
        max_pixels: most pixels a source picture's header may announce.
        samples_per_shard: most products in one tar file.
        max_rejected: share of any one file's rows, 0 to 1, above which nothing is built.
        workers: processes that make shards; None for one per core.
        dev_share: share put into dev where the tables name no splits.
        seed: of the order of the samples within a split.
        pictures: folder in which the pictures lie; None for that of the tables.
        test_share: share put into test where the tables name no splits.
        grades: columns of judgments that are grades; None for the layout's.
        run: further arguments of `run_plan`: ray, array and gpus.

    Raises:
        BuildError: too much is rejected (OUT.rejects.csv then lists it), or it cannot be written.
        TableError: the tables cannot be read.
    """
    tables_path, out = Path(tables_path).resolve(), Path(out).resolve()
    if min(samples_per_shard, picture_size) < 1:
        raise BuildError("samples_per_shard and picture_size must be at least 1")
    check_max_pixels(max_pixels)
    sizes = picture_size, max_pixels, samples_per_shard, max_rejected
    options = Options(layout, *sizes, dev_share, seed, pictures, test_share, grades)
    with _as_build_error(out):
        out.with_name(f"{out.name}.rejects.csv").unlink(missing_ok=True)
        check_replaceable(out, _is_build)
        return _build(tables_path, out, options, workers, **run)


def _build(
    tables_path: Path, out: Path, options: Options, workers: int | None, **run: Any
) -> dict[str, Any]:
    """Does what of a build is not done yet; returns the manifest, if this job finishes it."""
    work, facts = prepare(tables_path, out, options)
    if workers is None and sum(split.products for split in facts.splits) < FEW:
        workers = 1
    plan = plan_of(work, facts, options)
    forget_changed(plan)
    run_plan(plan, workers=workers, label="packing", **run)
    if not run.get("array"):
        return _finish(work, facts, out, options)
    # One of several jobs that find all done has the lock.
    with suppress(BlockingIOError):
        return _finish(work, facts, out, options) if is_done(plan) else {}
    return {}


def _finish(work: Path, facts: Facts, out: Path, options: Options) -> dict[str, Any]:
    """Makes the build of its shards; returns the manifest, or nothing where another job just has.

    Raises:
        BlockingIOError: another process does.
    """
    with locked(work / "lock", f"{out}: another process is finishing it"):
        if read_facts(work) is None:
            return {}
        rejects = rejects_of(read_rejects(work), facts.files.values(), out, options)
        with atomic_folder(out, _is_build) as folder:
            plan = plan_of(work, facts, options)
            manifest = finish(work, plan, facts, folder, rejects, options.picture_size)
        discard(work)
    return manifest


@contextmanager
def _as_build_error(out: Path) -> Iterator[None]:
    """Turns faults of the machine, and an `out` that is no build, into a BuildError.

    Where the tables are at fault the work is removed; where the machine is, it is kept.
    """
    try:
        yield
    except (RejectError, BuildError, TableError) as error:
        for work in work_folders(out):
            discard(work)
        if isinstance(error, RejectError):
            raise BuildError(str(error)) from error
        raise
    except (FileExistsError, BlockingIOError, PlanError, ModuleNotFoundError) as error:
        raise BuildError(str(error)) from error
    except OSError as error:
        kept = f"; {KEPT}" if work_folders(out) else ""
        raise BuildError(f"{out}: not written: {error}{kept}") from error
    except RuntimeError as error:
        if "Traceback" in str(error):
            raise
        raise BuildError(f"{out}: not written: {error}") from error


KEPT = "what is done is kept: the same command goes on with it"


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
    parser = command_parser("data_prep.shards", __doc__)
    parser.add_argument("tables", type=path_of, help="folder of tables, an export, a log or pairs")
    parser.add_argument("out", type=path_of, help="folder to make")
    add_layout_options(parser)
    parser.add_argument("--picture-size", type=int, default=256, help="longest side, in pixels")
    parser.add_argument("--max-pixels", type=int, default=MAX_PIXELS)
    parser.add_argument("--samples-per-shard", type=int, default=1000)
    parser.add_argument(
        "--max-rejected", type=float, default=MAX_REJECTED, help="share of a file's rows"
    )
    add_run_options(parser)
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
    parsed = _parser().parse_args(argv)
    arguments = vars(parsed) | run_options(parsed)
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
    except KeyboardInterrupt:
        print(f"error: interrupted; {KEPT}", file=sys.stderr)
        return 130
    if manifest:
        _print_counts(manifest)
    else:
        print("this share is done; the job that ends last, or one without --array, finishes")
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
