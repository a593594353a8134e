"""Trains one recipe in several variants from the same weights and says whether they differ.

    python -m beyond_text.ablate --fusion bilinear concat gated --seeds 0 1

A cell is one variant trained with one seed, in OUT/NAME-seedSEED. It is finished when it holds
metrics.json, which training writes last; finished cells are reused, so a stopped ladder goes on
where it was, and another variant is one more cell. Nothing stale is reused: a cell of other
settings, or a ladder begun from other weights, is an error. The report is computed from the TREC
files of the cells, query by query, and its differences are paired against the first variant.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from beyond_text.config import Config, differences, load_config
from beyond_text.fusion import FUSIONS
from beyond_text.metrics import MEASURES, per_query
from beyond_text.significance import compare_paired, interval
from beyond_text.trec import read_trec

STAGE3 = Path(__file__).parent.parent / "recipes" / "stage3.yaml"


class Cell(NamedTuple):
    """One variant with one seed: its settings as `key=value`, and the folder it is trained in."""

    name: str
    seed: int
    overrides: tuple[str, ...]
    folder: Path


def fusion_cells(fusions: Sequence[str], seeds: Sequence[int], out: Path) -> list[Cell]:
    """Gives a cell for each fusion and seed, in the order of the fusions.

    Raises:
        ValueError: a fusion that `FUSIONS` does not have, or one named twice.
    """
    for name in fusions:
        if name not in FUSIONS:
            raise ValueError(f"unknown fusion {name!r}: expected some of {', '.join(FUSIONS)}")
    if len(set(fusions)) < len(fusions) or len(set(seeds)) < len(seeds):
        raise ValueError(f"named twice: one of {', '.join([*fusions, *map(str, seeds)])}")
    return [
        Cell(name, seed, _settings_of(name), out / f"{name}-seed{seed}")
        for name, seed in product(fusions, seeds)
    ]


def _settings_of(fusion: str) -> tuple[str, ...]:
    """A control without pictures is a system that never sees one, in its losses either."""
    blind = "image" not in FUSIONS[fusion].uses
    return (f"fusion={fusion}", *(["losses.query_image=0"] if blind else []))


def configure(cell: Cell, start: Path, recipes: Sequence[Path], overrides: Sequence[str]) -> Config:
    """Gives the settings of a cell: those of the run it starts from, the recipes, the overrides.

    Raises:
        ValueError: `start` is not a finished run, an override of what the cell itself decides,
            or settings other than those the cell's folder was begun with; names the keys.
    """
    if not (start / "metrics.json").exists():
        raise ValueError(f"{start} is not a finished run (no metrics.json): train it first")
    own = [f"start={start}", f"run={cell.folder}", f"seed={cell.seed}", *cell.overrides]
    taken = {text.partition("=")[0] for text in own} & {s.partition("=")[0] for s in overrides}
    if taken:
        raise ValueError(f"{', '.join(sorted(taken))}: set by the ablation, cannot be overridden")
    config = load_config([start / "config.yaml", *recipes], [*overrides, *own])
    if (cell.folder / "config.yaml").exists():
        # START may have moved; what it holds is compared by `claim`.
        found = replace(load_config([cell.folder / "config.yaml"]), start=config.start)
        if differing := differences(found, config):
            raise ValueError(
                f"{cell.folder} was trained with other settings: {', '.join(differing)}; "
                "remove it or choose another --out"
            )
    return config


def claim(out: Path, start: Path) -> None:
    """Ties the ladder in `out` to the finished run in `start`, whose weights all cells begin with.

    Raises:
        ValueError: `out` was begun from another run, or before `start` was trained again.
    """
    # The metrics hold the seconds that training took, so they tell two trainings apart.
    digest = hashlib.sha256((start / "metrics.json").read_bytes()).hexdigest()
    mark = out / "start.sha256"
    if mark.exists() and mark.read_text().strip() != digest:
        raise ValueError(
            f"{out} was begun from other weights than {start} holds now: "
            "remove it or choose another --out"
        )
    out.mkdir(parents=True, exist_ok=True)
    mark.write_text(f"{digest}\n")


def run_cells(configs: Sequence[Config]) -> None:
    """Trains the cells that are not finished, in order.

    Raises:
        ValueError: a cell that cannot be trained, or whose training had to stop; names it.
    """
    for number, config in enumerate(configs, start=1):
        finished = (Path(config.run) / "metrics.json").exists()
        action = "reused" if finished else "training"
        print(f"[{number}/{len(configs)}] {config.run}: {action}", flush=True)
        if not finished:
            # A finished ladder is reported without loading the training libraries.
            from beyond_text.train import TrainingError, train

            try:
                train(config)
            except TrainingError as error:
                raise ValueError(f"{config.run}: {error}") from error


def summarise(cells: Sequence[Cell], measure: str = "ndcg@10") -> pd.DataFrame:
    """Gives a row for each variant and kind of query ("all" first), variants in order of cells.

    Columns: name, kind, measure, seeds, queries, fusion_parameters, minutes (of training, mean
    over seeds); mean, low, high (95 % bootstrap interval over queries of the value averaged over
    seeds), deviation (sample standard deviation of the mean over seeds; nan for one seed);
    difference, difference_low, difference_high, p (paired against the first variant).

    Raises:
        ValueError: cells measured on different queries.
    """
    names = list(dict.fromkeys(cell.name for cell in cells))
    columns, training = {}, {}
    for cell in cells:
        judged = read_trec(cell.folder)
        values = per_query(*judged, measure=measure)
        kind_of = judged.queries.set_index("query_id")["kind"]
        values.index = pd.MultiIndex.from_arrays(
            [values.index, kind_of[values.index]], names=["query_id", "kind"]
        )
        columns[cell.name, cell.seed] = values
        if set(values.index) != set(columns[names[0], cells[0].seed].index):
            raise ValueError(f"{cell.folder}: other queries than those of {cells[0].folder}")
        training[cell] = json.loads((cell.folder / "metrics.json").read_text())["training"]
    table = pd.DataFrame(columns)
    kinds = sorted(table.index.unique("kind"))
    rows = []
    for name in names:
        own = [training[cell] for cell in cells if cell.name == name]
        for kind in ["all", *kinds] if len(kinds) > 1 else ["all"]:
            part = table if kind == "all" else table.xs(kind, level="kind")
            seeds, first = part[name], part[names[0]]
            average = seeds.mean(axis=1).to_numpy()
            mean, low, high = interval(average)
            paired = compare_paired(average, first.mean(axis=1).to_numpy())
            rows.append({
                "name": name, "kind": kind, "measure": measure,
                "seeds": seeds.shape[1], "queries": len(part),
                "fusion_parameters": own[0]["fusion_parameters"],
                "minutes": sum(run["seconds"] for run in own) / len(own) / 60,
                "mean": mean, "low": low, "high": high, "deviation": seeds.mean().std(),
                "difference": paired.difference, "difference_low": paired.low,
                "difference_high": paired.high, "p": paired.p,
            })  # fmt: skip
    return pd.DataFrame(rows)


def verdict(table: pd.DataFrame) -> str:
    """Says for each kind which variant is the best and whether it is apart from the first.

    Two variants are apart where the 95 % interval of their paired difference leaves out 0.
    """
    return "\n".join(_verdict(str(kind), rows) for kind, rows in table.groupby("kind", sort=False))


def markdown(table: pd.DataFrame) -> str:
    """Gives the table for people: a row for each variant, then what the numbers mean."""
    kinds, first = list(dict.fromkeys(table["kind"])), table.iloc[0]
    header = ["", "fusion parameters", "minutes"]
    header += [f"{first['measure']} {kind}" for kind in kinds]
    header += [f"difference, {kind}" for kind in kinds]
    lines = ["| " + " | ".join(header) + " |", "|---" + "|--:" * (len(header) - 1) + "|"]
    for name, rows in table.groupby("name", sort=False):
        words = [str(name), f"{rows.iloc[0]['fusion_parameters']:,}"]
        words.append(f"{rows.iloc[0]['minutes']:.1f}")
        words += [_value(row) for _, row in rows.iterrows()]
        words += ["-" if name == first["name"] else _difference(r) for _, r in rows.iterrows()]
        lines.append("| " + " | ".join(words) + " |")
    seeds = (
        f"averaged over {first['seeds']} seeds (± their standard deviation)"
        if first["seeds"] > 1
        else "of one seed"
    )
    note = (
        f"Brackets: 95 % bootstrap interval over the {first['queries']} queries, {seeds}; "
        "what another seed would change is not in them. Differences are paired by query against "
        f"{first['name']}; p is a sign-flip permutation test, not corrected for the number of rows."
    )
    return "\n".join([*lines, "", note, "", *(f"- {s}" for s in verdict(table).splitlines()), ""])


def chart(table: pd.DataFrame) -> Figure:
    """Draws the means with their intervals: a panel for each kind, a line for each variant."""
    names = list(dict.fromkeys(table["name"]))
    kinds = list(table.groupby("kind", sort=False))
    figure = Figure(figsize=(1.5 + 3.2 * len(kinds), 1.2 + 0.45 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for panel, (kind, rows) in zip(panels, kinds, strict=True):
        for height, (_, row) in enumerate(rows.iterrows()):
            colour = "tab:gray" if height == 0 else "tab:blue"
            panel.plot([row["low"], row["high"]], [height, height], color=colour, linewidth=2.5)
            panel.plot(row["mean"], height, "o", color=colour)
            panel.annotate(
                f"{row['mean']:.3f}", (row["mean"], height), (0, 6), ha="center",
                textcoords="offset points", fontsize=8,
            )  # fmt: skip
        panel.axvline(rows.iloc[0]["mean"], color="tab:gray", linewidth=0.8, linestyle=":")
        panel.set_title(f"{kind} ({rows.iloc[0]['queries']} queries)", fontsize=10)
        panel.set_xlabel(f"{rows.iloc[0]['measure']}, 95 % interval")
        panel.grid(axis="x", alpha=0.3)
        panel.margins(x=0.12)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.4, -0.7)
    return figure


def write_report(table: pd.DataFrame, out: Path) -> str:
    """Writes table.csv (one row a variant and kind), table.md and chart.png; gives the Markdown."""
    text = markdown(table)
    table.to_csv(out / "table.csv", index=False)
    (out / "table.md").write_text(text, encoding="utf-8")
    chart(table).savefig(out / "chart.png", dpi=150)
    return text


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line; `key=value` words may stand anywhere."""
    parser = argparse.ArgumentParser(
        prog="python -m beyond_text.ablate",
        description="Train stage 3 with each fusion from the same weights; report the differences.",
    )
    parser.add_argument(
        "--fusion", nargs="+", required=True, metavar="NAME", help=f"some of: {', '.join(FUSIONS)}"
    )
    parser.add_argument("--seeds", nargs="+", default=["0"], metavar="SEED", help="default: 0")
    parser.add_argument("--start", type=Path, default=Path("runs/stage2"), help="run folder")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"), help="results folder")
    parser.add_argument("--measure", choices=MEASURES, default="ndcg@10")
    parser.add_argument("--recipe", nargs="+", type=Path, default=[STAGE3], metavar="FILE")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of every cell")
    # Set apart first, or the options that take several words would swallow them.
    words = list(sys.argv[1:] if argv is None else argv)
    overrides = [word for word in words if re.match(r"\w[\w.]*=", word)]
    arguments = parser.parse_args([word for word in words if word not in overrides])
    if arguments.overrides:
        parser.error(f"expected key=value, got {arguments.overrides[0]!r}")
    arguments.overrides = overrides
    arguments.fusion = _split(arguments.fusion)
    try:
        arguments.seeds = [int(seed) for seed in _split(arguments.seeds)]
    except ValueError as error:
        parser.error(f"--seeds: expected whole numbers: {error}")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command; a mistake in the request is told before anything is trained."""
    asked = parse(argv)
    try:
        cells = fusion_cells(asked.fusion, asked.seeds, asked.out)
        configs = [configure(cell, asked.start, asked.recipe, asked.overrides) for cell in cells]
        claim(asked.out, asked.start)
        run_cells(configs)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"ablate: {error}") from error
    print(write_report(summarise(cells, asked.measure), asked.out))


def _split(words: Sequence[str]) -> list[str]:
    return [part for word in words for part in word.split(",") if part]


def _value(row: pd.Series) -> str:
    deviation = "" if pd.isna(row["deviation"]) else f" ± {row['deviation']:.3f}"
    return f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]{deviation}"


def _difference(row: pd.Series) -> str:
    low, high, p = row["difference_low"], row["difference_high"], row["p"]
    chance = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    return f"{row['difference']:+.3f} [{low:+.3f}, {high:+.3f}], {chance}"


def _verdict(kind: str, rows: pd.DataFrame) -> str:
    first, others = rows.iloc[0], rows.iloc[1:]
    if others.empty:
        return f"{kind}: {first['name']} alone, nothing to compare it with."
    apart = (others["difference_low"] > 0) | (others["difference_high"] < 0)
    best = rows.loc[rows["mean"].idxmax()]
    if best["name"] != first["name"]:
        result = "separate them" if apart[best.name] else "do not separate them"
        return (
            f"{kind}: {best['name']} is the best, {_difference(best)} against {first['name']}: "
            f"the intervals {result}."
        )
    close = ", ".join(others["name"][~apart])
    result = f"do not separate it from {close}" if close else "separate it from every other"
    return f"{kind}: {first['name']} is the best: the intervals {result}."


if __name__ == "__main__":
    main()
