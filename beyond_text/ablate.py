"""The command that trains the rows of a ladder for equally many samples and compares them.

    python -m beyond_text.ablate --fusion bilinear concat gated --seeds 0 1
    python -m beyond_text.ablate --curriculum --seeds 0 1
    python -m beyond_text.ablate --labels 0 12 37 100 400 1500 all --seeds 0 1

A row is a chain of stages, each started from the weights of the one before. With `--fusion`, it is
stage 3 with each fusion, from START's weights (`all-learned` names all but the controls); with
`--curriculum`, the chains of a file, from the untouched encoders; with `--ladder`, the chains of a
file, from START's weights; with `--labels`, chains at each number of judged queries, from the
untouched encoders. Settings are START's, then the recipe's, then the words of the command.

With `--only`, some rows of the ladder are trained, as they would be in the whole of it.

With `--grid`, every row first tries the same few settings with the first seed, and takes those that
are best on dev.

A cell is one row trained with one seed, in OUT/NAME-seedSEED; the stages of a chain are in
OUT/NAME-seedSEED/1-stage1 and so on. Chains that begin alike share the runs they begin with. A run
is finished when it holds metrics.json, which training writes last. Finished runs are reused, so a
stopped ladder goes on where it was, and a further row trains only its own cells. Nothing stale is
reused: a run of other settings, or one begun from other weights, is an error.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from beyond_text.config.names import (
    ALL_LEARNED,
    CONTROLS,
    CURRICULUM,
    FUSION_NAMES,
    LABELS,
    MEASURE_NAMES,
    STAGE3,
)
from beyond_text.terminal import (
    check_writable,
    command_parser,
    errors_in_one_line,
    split_settings,
)
from beyond_text.training.started import is_first

if TYPE_CHECKING:
    from beyond_text.config.settings import Config
    from beyond_text.evaluation.ladder import Ladder, Row


# What `--grid` without a file stands for.
OWN_GRID = Path()


def run_chains(chains: Sequence[Sequence[Config]]) -> None:
    """Trains the runs that are not finished, chain by chain, in as many processes as they ask for.

    Raises:
        ValueError: a run cannot be trained, or its training had to stop; names the run.
    """
    for number, chain in enumerate(chains, start=1):
        for position, config in enumerate(chain, start=1):
            finished = (Path(config.run) / "metrics.json").exists()
            stage = f"stage {position} of {len(chain)}, {config.total_steps} steps"
            action = "reused" if finished else "training"
            if is_first():
                print(f"[{number}/{len(chains)}] {config.run}, {stage}: {action}", flush=True)
            if not finished:
                _train(config)


def _train(config: Config) -> None:
    # Imported here, so that a finished ladder is reported without loading `beyond_text.train`.
    from beyond_text.train import train
    from beyond_text.training.module import TrainingError

    try:
        train(config)
    except (TrainingError, ValueError) as error:
        raise ValueError(f"{config.run}: {error}") from error


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line; `key=value` words may stand anywhere."""
    parser = command_parser(
        "beyond_text.ablate", "Train the rows of one or several ladders; report their differences."
    )
    add = parser.add_argument
    # fmt: off
    add("--fusion", nargs="+", default=[], metavar="NAME",
        help=f"some of: {', '.join(FUSION_NAMES)}; {ALL_LEARNED}: all but {', '.join(CONTROLS)}")
    add("--curriculum", nargs="?", type=Path, const=CURRICULUM, metavar="FILE",
        help=f"chains from the untouched encoders; default: {CURRICULUM.name}")
    add("--ladder", type=Path, metavar="FILE", help="chains from START's weights")
    add("--labels", nargs="+", default=[], metavar="N",
        help="rows at each of these numbers of judged queries; 0 and all among them")
    add("--rows", type=Path, default=LABELS, metavar="FILE",
        help=f"chains that --labels trains; default: {LABELS.name}")
    add("--only", nargs="+", default=[], metavar="ROW",
        help="rows to train and report; they see as many products as in the whole ladder")
    add("--grid", nargs="?", type=Path, const=OWN_GRID, metavar="FILE",
        help="settings, with the values that each row tries on dev before its seeds are trained; "
             "with --labels, without FILE: the grid of its rows")
    add("--seeds", nargs="+", default=["0"], metavar="SEED", help="default: 0")
    add("--curriculum-seeds", nargs="+", metavar="SEED", help="default: those of --seeds")
    add("--start", type=Path, default=Path("runs/stage2"),
        help="run folder: settings, and weights but for --curriculum")
    add("--out", type=Path, default=Path("runs/ablation"), help="results folder")
    add("--measure", choices=MEASURE_NAMES, default="ndcg@10")
    add("--recipe", nargs="+", type=Path, default=[STAGE3], metavar="FILE",
        help="the stage that --fusion trains; default: stage3.yaml")
    # fmt: on
    add("overrides", nargs="*", metavar="key=value", help="settings of every stage")
    # Taken out first: the options that take several words would swallow them.
    others, overrides = split_settings(list(sys.argv[1:] if argv is None else argv))
    arguments = parser.parse_args(others)
    if arguments.overrides:
        parser.error(f"expected key=value, got {arguments.overrides[0]!r}")
    arguments.overrides = overrides
    learned = [name for name in FUSION_NAMES if name not in CONTROLS]
    named = _split(arguments.fusion)
    arguments.fusion = [n for name in named for n in (learned if name == ALL_LEARNED else [name])]
    _check_asked(parser, arguments)
    try:
        arguments.seeds = [int(seed) for seed in _split(arguments.seeds)]
        own = arguments.curriculum_seeds
        arguments.curriculum_seeds = [int(s) for s in _split(own)] if own else arguments.seeds
    except ValueError as error:
        parser.error(f"seeds: expected whole numbers: {error}")
    return arguments


def _check_asked(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Refuses a command line that names no ladder, or options of another one."""
    arguments.labels, arguments.only = _split(arguments.labels), _split(arguments.only)
    others = arguments.fusion or arguments.curriculum or arguments.ladder
    if not (others or arguments.labels):
        parser.error("nothing to compare: give --fusion, --curriculum, --ladder or --labels")
    if others and arguments.labels:
        parser.error("--labels makes a table of its own: give it without the other ladders")
    if not arguments.labels and arguments.rows != LABELS:
        parser.error("--rows: expected with --labels")
    if not arguments.fusion and arguments.recipe != [STAGE3]:
        parser.error("--recipe: expected with --fusion")
    if not arguments.curriculum and arguments.curriculum_seeds:
        parser.error("--curriculum-seeds: expected with --curriculum")
    if arguments.grid is not None and (arguments.grid == OWN_GRID) != bool(arguments.labels):
        parser.error("--grid: expected a FILE, or with --labels none, whose rows have their own")
    if arguments.only and arguments.grid is not None and not arguments.labels:
        parser.error("--only: expected without --grid FILE, which all rows try")


def _split(words: Sequence[str]) -> list[str]:
    """Splits words at commas."""
    return [part for word in words for part in word.split(",") if part]


def _check_named(names: Sequence[str], rows: Sequence[Row]) -> None:
    """Raises a ValueError where no row has one of the names."""
    known = [row.name for row in rows]
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"--only: no row {unknown[0]!r}: expected some of {', '.join(known)}")


def ladders_of(arguments: argparse.Namespace) -> list[Ladder]:
    """Returns the ladders of a command line.

    Raises:
        ValueError: an unknown fusion, a start that has trained its fusion, or a file without rows.
    """
    from beyond_text.evaluation.ladder import (
        Ladder,
        check_untrained_fusion,
        fusion_rows,
        read_rows,
    )

    ladders = []
    if arguments.fusion:
        rows = fusion_rows(arguments.fusion, arguments.recipe)
        check_untrained_fusion(arguments.start)
        ladders.append(Ladder("fusion", rows, arguments.seeds, arguments.start))
    if arguments.ladder:
        rows = read_rows(arguments.ladder)
        ladders.append(Ladder(arguments.ladder.stem, rows, arguments.seeds, arguments.start))
    if arguments.curriculum:
        rows = read_rows(arguments.curriculum)
        ladders.append(Ladder("curriculum", rows, arguments.curriculum_seeds, None))
    return ladders


def choose(
    ladders: Sequence[Ladder], arguments: argparse.Namespace, settings: Path
) -> tuple[list[Ladder], list[Config]]:
    """Trains every point of the grid; returns the ladders with the best ones, and all those runs.

    Raises:
        ValueError: as `plan` and `check_points`, or the grid cannot be read.
    """
    from beyond_text.evaluation import grid
    from beyond_text.evaluation.ladder import check_chains, plan

    given, overrides, out = grid.read_grid(arguments.grid), arguments.overrides, arguments.out
    # The rows themselves, before anything is trained.
    plan(ladders, settings, overrides, out)
    chosen: list[Ladder] = []
    known: list[Config] = []
    tried: list[grid.Tried] = []
    for ladder in ladders:
        all_points, of_name = grid.tried_rows(ladder, given, settings, overrides)
        cells = plan([all_points], settings, overrides, out / "grid", known)
        grid.check_points(cells, of_name)
        check_chains(cells.values())
        run_chains(list(cells.values()))
        known += grid.runs_of(cells)
        found = grid.values_of(list(cells), of_name, arguments.measure)
        tried += found
        chosen.append(grid.with_best(ladder, grid.best_of(found)))
    if is_first():
        print(grid.write_grid(tried, arguments.measure, ladders[0].seeds[0], out))
    return chosen, known


def compare_labels(arguments: argparse.Namespace, settings: Path) -> None:
    """Trains and reports the rows of `--labels`.

    Raises:
        ValueError: as `numbers_of` and `plan_labels`, or the rows cannot be read.
    """
    from beyond_text.evaluation.labels import (
        Setup,
        fitting,
        numbers_of,
        plan_labels,
        read_labels,
    )
    from beyond_text.evaluation.labels_report import report_labels
    from beyond_text.evaluation.ladder import check_chains

    rows, grid = read_labels(arguments.rows)
    _check_named(arguments.only, rows)
    rows = fitting(rows, arguments.only, arguments.overrides)
    setup = Setup(rows, arguments.seeds, settings, arguments.overrides, arguments.out)
    numbers = numbers_of(arguments.labels, setup)
    points = plan_labels(setup, numbers, grid if arguments.grid is not None else [{}])
    if arguments.only:
        points = {p: chain for p, chain in points.items() if p.cell.name in arguments.only}
    if not points:
        raise ValueError(
            "--labels: nothing to train: at 0 a row stands for its stages that need no judgments, "
            "and one that needs none stands there alone"
        )
    chains = list(points.values())
    check_chains(chains)
    run_chains(chains)
    if is_first():
        print(report_labels(list(points), arguments.measure, arguments.out))


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command; mistakes in it are reported before anything is trained."""
    arguments = parse(argv)
    settings, out = arguments.start / "config.yaml", arguments.out
    with errors_in_one_line(RuntimeError):
        if not settings.is_file():
            raise FileNotFoundError(f"{settings}: no such file: --start is no run folder")
        check_writable(out)
        if arguments.labels:
            compare_labels(arguments, settings)
            return
        from beyond_text.evaluation.ladder import check_chains, plan
        from beyond_text.evaluation.report import summarise, write_report, write_runs

        ladders = ladders_of(arguments)
        _check_named(arguments.only, [row for ladder in ladders for row in ladder.rows])
        known: list[Config] = []
        if arguments.grid:
            ladders, known = choose(ladders, arguments, settings)
        cells = plan(ladders, settings, arguments.overrides, out, known, arguments.only)
        chains = list(cells.values())
        check_chains(chains)
        run_chains(chains)
        if is_first():
            write_runs(list(cells), out)
            print(write_report(summarise(list(cells), arguments.measure), out))


if __name__ == "__main__":
    main()
