"""Reports the cells of an ablation as a table, in words and as a chart.

Everything is computed from the cells' TREC files, query by query. The differences of a ladder are
paired against its own first row, so several ladders can stand in one table.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from beyond_text.files import write_text
from beyond_text.metrics.ranking import needs, per_query
from beyond_text.metrics.results import METRICS, whole
from beyond_text.metrics.significance import (
    Comparison,
    compare_paired,
    in_words,
    interval,
    with_interval,
)
from beyond_text.metrics.trec import read_trec
from beyond_text.terminal import table_row

# The file that names the runs of a ladder.
RUNS = "runs.csv"


class Cell(NamedTuple):
    """One row of a ladder trained with one seed: the run folders of its stages, in order.

    A cell is measured by its last stage. Two cells may share the folders of their first stages.
    """

    ladder: str
    name: str
    seed: int
    runs: tuple[Path, ...]


def summarise(cells: Sequence[Cell], measure: str = "ndcg@10") -> pd.DataFrame:
    """Returns a row for each ladder, name and kind of query ("all" first), in order of the cells.

    Columns: ladder, name, kind, measure, seeds, queries, needs (groups of queries judged alike,
    which bootstrap and permutation take as one), fusion_parameters, minutes (of training, all
    stages of a chain, mean over seeds), products (that are searched; 0: the run tells none); mean,
    low, high (95 % bootstrap interval over needs of the value averaged over seeds), deviation
    (sample standard deviation of the mean over seeds; nan for one seed); difference,
    difference_low, difference_high, p (paired against the first name of the ladder).

    Raises:
        ValueError: cells measured on different queries.
    """
    values = {cell: values_of(cell, measure) for cell in cells}
    queries = values[cells[0]].index
    for cell, cell_values in values.items():
        if set(cell_values.index) != set(queries):
            raise ValueError(f"{cell.runs[-1]}: other queries than those of {cells[0].runs[-1]}")
    need = needs(queries.get_level_values("query_id"), read_trec(cells[0].runs[-1]).qrels)
    of_kind = _parts(queries.get_level_values("kind").to_numpy())
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.ladder, cell.name), []).append(cell)
    firsts: dict[str, pd.DataFrame] = {}
    rows = []
    for (ladder, name), group in groups.items():
        seeds = pd.DataFrame({cell.seed: values[cell].reindex(queries) for cell in group})
        first = firsts.setdefault(ladder, seeds)
        cost = {
            "fusion_parameters": _training(group[0].runs[-1])["fusion_parameters"],
            "minutes": sum(map(_seconds, group)) / len(group) / 60,
            "products": _products(group[0].runs[-1]),
        }
        for kind, part in of_kind.items():
            head = {"ladder": ladder, "name": name, "kind": kind, "measure": measure}
            rows.append(head | _statistics(seeds[part], first[part], need[part], cost))
    return pd.DataFrame(rows)


def _statistics(
    seeds: pd.DataFrame, first: pd.DataFrame, need: np.ndarray, cost: Mapping[str, float]
) -> dict[str, float]:
    """Returns a row's statistics: `seeds` and `first` hold a value per query, a column per seed."""
    average = seeds.mean(axis=1).to_numpy()
    mean, low, high = interval(average, need)
    paired = compare_paired(average, first.mean(axis=1).to_numpy(), need)
    return {
        "seeds": seeds.shape[1],
        "queries": len(seeds),
        "needs": len(set(need)),
        **cost,
        "mean": mean,
        "low": low,
        "high": high,
        "deviation": seeds.mean().std(),
        "difference": paired.difference,
        "difference_low": paired.low,
        "difference_high": paired.high,
        "p": paired.p,
    }


SIGNIFICANT = 0.05


def verdict(table: pd.DataFrame) -> str:
    """Says for each ladder and kind which row is the best, and whether it differs from the first.

    Two rows differ where the 95 % interval of their paired difference excludes 0 and p < 0.05.
    """
    groups = table.groupby(["ladder", "kind"], sort=False)
    return "\n".join(f"{ladder}, {_verdict(kind, rows)}" for (ladder, kind), rows in groups)


def markdown(table: pd.DataFrame) -> str:
    """Returns the table in Markdown: a line per row of a ladder, then what the numbers mean."""
    kinds, measure = list(dict.fromkeys(table["kind"])), table["measure"][0]
    header = ["ladder", "row", "fusion parameters", "minutes", "seeds"]
    header += [f"{measure} {kind}" for kind in kinds] + [f"difference, {kind}" for kind in kinds]
    lines = [table_row(header), "|---|---" + "|--:" * (len(header) - 2) + "|"]
    firsts = set(table.groupby("ladder")["name"].first().items())
    for (ladder, name), rows in table.groupby(["ladder", "name"], sort=False):
        row = rows.iloc[0]
        line = [ladder, name, f"{row['fusion_parameters']:,}", f"{row['minutes']:.1f}"]
        line += [str(row["seeds"]), *(_value(row) for _, row in rows.iterrows())]
        line += ["-" if (ladder, name) in firsts else _difference(r) for _, r in rows.iterrows()]
        lines.append(table_row(line))
    seeds = (
        "averaged over the seeds (± their standard deviation)"
        if table["seeds"].max() > 1
        else "of one seed"
    )
    searched = f"{table['products'].max():,.0f} products are searched. "
    note = (searched if table["products"].max() else "") + (
        f"Brackets: 95 % bootstrap interval over the {table['queries'].max()} queries, those that "
        f"are judged alike taken as one ({_needs(table)}), {seeds}; "
        "what another seed would change is not in them. Differences are paired by query against "
        "the first row of the ladder; p is a sign-flip permutation test, not corrected for the "
        "number of rows. Minutes are those of all stages of a row, also of stages that rows share."
    )
    return "\n".join([*lines, "", note, "", *(f"- {s}" for s in verdict(table).splitlines()), ""])


def chart(table: pd.DataFrame) -> Figure:
    """Draws the means with their intervals: a panel per kind of query, one ladder below another."""
    kinds = list(table.groupby("kind", sort=False))
    heights = _heights(table)
    lowest = max(heights.values())
    size = (1.8 + 3.2 * len(kinds), 1.4 + 0.45 * lowest)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for panel, (kind, rows) in zip(panels, kinds, strict=True):
        for ladder, part in rows.groupby("ladder", sort=False):
            _draw(panel, part, [heights[ladder, name] for name in part["name"]])
        panel.set_title(f"{kind} ({rows.iloc[0]['queries']} queries)", fontsize=10)
        panel.set_xlabel(f"{rows.iloc[0]['measure']}, 95 % interval")
        panel.grid(axis="x", alpha=0.3)
        panel.margins(x=0.12)
    panels[0].set_yticks(list(heights.values()), [name for _, name in heights])
    panels[0].set_ylim(lowest + 0.6, -1.1)
    return figure


def write_report(table: pd.DataFrame, out: Path) -> str:
    """Writes table.csv (a line per row and kind), table.md and chart.png; returns the Markdown."""
    text = markdown(table)
    table.to_csv(out / "table.csv", index=False)
    write_text(out / "table.md", text)
    chart(table).savefig(out / "chart.png", dpi=150)
    return text


def write_runs(cells: Sequence[Cell], out: Path) -> None:
    """Writes runs.csv: the run that stands for each cell, as a path relative to OUT."""
    rows = [(c.ladder, c.name, c.seed, os.path.relpath(c.runs[-1], out)) for c in cells]
    table = pd.DataFrame(rows, columns=["ladder", "name", "seed", "run"])
    table.to_csv(out / RUNS, index=False)


def values_of(cell: Cell, measure: str) -> pd.Series:
    """Returns the measure of each query of a cell, indexed by query_id and kind."""
    judged = read_trec(cell.runs[-1])
    values = per_query(*judged, measure=measure)
    kinds = judged.queries.set_index("query_id")["kind"][values.index]
    values.index = pd.MultiIndex.from_arrays([values.index, kinds], names=["query_id", "kind"])
    return values


def _needs(table: pd.DataFrame) -> str:
    """Says how many groups of queries judged alike each kind has."""
    counts = table.drop_duplicates("kind").set_index("kind")["needs"]
    return ", ".join(f"{kind} {count}" for kind, count in counts.items())


def _parts(kinds: np.ndarray) -> dict[str, np.ndarray]:
    """Returns which queries count for "all" and, if there are several kinds, for each of them."""
    names = sorted(set(kinds))
    parts = {name: kinds == name for name in names} if len(names) > 1 else {}
    return {"all": np.ones(len(kinds), dtype=bool), **parts}


def _training(run: Path) -> dict[str, float]:
    """Returns what a run's metrics.json says about its training."""
    return json.loads((run / METRICS).read_text(encoding="utf-8"))["training"]


def _products(run: Path) -> int:
    """Returns among how many products a run's metrics.json says that it searched; 0: not said."""
    metrics = json.loads((run / METRICS).read_text(encoding="utf-8"))
    return int(whole(metrics).get("products", 0))


def _seconds(cell: Cell) -> float:
    """Returns the training time of all stages of a cell."""
    return sum(_training(run)["seconds"] for run in cell.runs)


def _value(row: pd.Series) -> str:
    deviation = "" if pd.isna(row["deviation"]) else f" ± {row['deviation']:.3f}"
    return with_interval(row["mean"], row["low"], row["high"]) + deviation


def _difference(row: pd.Series) -> str:
    names = ("difference", "difference_low", "difference_high", "p")
    return in_words(Comparison(*(row[name] for name in names)))


def _verdict(kind: str, rows: pd.DataFrame) -> str:
    first, others = rows.iloc[0], rows.iloc[1:]
    if others.empty:
        return f"{kind}: {first['name']} alone, nothing to compare it with."
    # Of few needs an interval is too narrow, and p tells.
    apart = (others["difference_low"] > 0) | (others["difference_high"] < 0)
    apart &= others["p"] < SIGNIFICANT
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


def _heights(table: pd.DataFrame) -> dict[tuple[str, str], float]:
    """Returns where each row is drawn, counted downwards; there is a gap between two ladders."""
    names = table[["ladder", "name"]].drop_duplicates()
    ladders = list(dict.fromkeys(names["ladder"]))
    return {
        (ladder, name): height + ladders.index(ladder)
        for height, (ladder, name) in enumerate(names.itertuples(index=False))
    }


def _draw(panel: Axes, rows: pd.DataFrame, heights: Sequence[float]) -> None:
    """Draws one ladder: its name, a line for each row, and the mean of the first row as a line."""
    means = rows["mean"].tolist()
    for height, mean, low, high in zip(heights, means, rows["low"], rows["high"], strict=True):
        colour = "tab:gray" if height == heights[0] else "tab:blue"
        panel.plot([low, high], [height, height], color=colour, linewidth=2.5)
        panel.plot(mean, height, "o", color=colour)
        panel.annotate(
            f"{mean:.3f}", (mean, height), (0, 6), ha="center",
            textcoords="offset points", fontsize=8,
        )  # fmt: skip
    extent = [heights[0] - 0.6, heights[-1] + 0.4]
    panel.plot([means[0]] * 2, extent, color="tab:gray", linewidth=0.8, linestyle=":")
    if heights[0] > 0:
        panel.axhline(heights[0] - 1, color="tab:gray", linewidth=0.8)
    panel.text(
        0.01, heights[0] - 0.65, rows.iloc[0]["ladder"],
        transform=panel.get_yaxis_transform(), fontsize=8, style="italic",
    )  # fmt: skip
