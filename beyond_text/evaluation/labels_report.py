"""Reports a ladder of labels: a table, and quality over the number of judged queries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from beyond_text.evaluation.labels import Point, picked
from beyond_text.evaluation.report import markdown, summarise, write_runs
from beyond_text.files import write_text


def report_labels(points: Sequence[Point], measure: str, out: Path) -> str:
    """Writes table.csv, table.md, runs.csv and labels.png of the best points; returns the Markdown.

    The table is that of `summarise`, with the columns `labels` and `grid` (the picked entry).
    """
    best = picked(points, measure)
    table = summarise([point.cell for point in best], measure)
    of = {(point.cell.ladder, point.cell.name): point for point in best}
    chosen = [of[key] for key in zip(table["ladder"], table["name"], strict=True)]
    table = table.assign(
        labels=[point.labels for point in chosen], grid=[point.entry for point in chosen]
    )
    text = markdown(table) + _grid_in_words(points, table)
    table.to_csv(out / "table.csv", index=False)
    write_text(out / "table.md", text)
    write_runs([point.cell for point in best], out)
    chart(table).savefig(out / "labels.png", dpi=150)
    return text


def _grid_in_words(points: Sequence[Point], table: pd.DataFrame) -> str:
    """Says what was picked for each row, where there is a grid."""
    entries = dict.fromkeys(point.entry for point in points)
    if len(entries) == 1:
        return ""
    measure = table["measure"][0]
    lines = [
        f"\nEach row at each number is its own best of {len(entries)} settings "
        f"({'; '.join(entries)}), picked by {measure} of all queries on the split that "
        "is shown, so a little above what other queries would give:\n"
    ]
    for row in table[table["kind"] == "all"].itertuples():
        lines.append(f"- {row.ladder}, {row.name}: {row.grid}")
    return "\n".join([*lines, ""])


def chart(table: pd.DataFrame) -> Figure:
    """Draws a panel per kind of query and a line per row over the number of judged queries.

    The axis is logarithmic, with 0 at its left end; bands are 95 % intervals over needs. A row that
    stands at one number alone is drawn across all.
    """
    kinds = list(table.groupby("kind", sort=False))
    figure = Figure(figsize=(1.6 + 4.4 * len(kinds), 4.2), layout="constrained")
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for panel, (kind, rows) in zip(panels, kinds, strict=True):
        for number, (name, line) in enumerate(rows.groupby("name", sort=False)):
            _draw(panel, str(name), line.sort_values("labels"), f"C{number}")
        panel.set_title(f"{kind} ({rows.iloc[0]['queries']} queries)", fontsize=10)
        _label_axis(panel, sorted(set(table["labels"])))
        panel.grid(alpha=0.3)
    panels[0].set_ylabel(f"{table['measure'][0]}, 95 % interval")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8)
    return figure


def _label_axis(panel: Axes, numbers: Sequence[int]) -> None:
    """Gives the axis its scale, and a tick at each number."""
    above = [number for number in numbers if number]
    panel.set_xscale("symlog", linthresh=min(above, default=1))
    panel.set_xticks(numbers, [f"{number:,}" for number in numbers], fontsize=8)
    panel.minorticks_off()
    panel.set_xlabel("judged queries that training sees")


def _draw(panel: Axes, name: str, line: pd.DataFrame, colour: str) -> None:
    """Draws one row."""
    numbers, means = line["labels"].tolist(), line["mean"].tolist()
    if len(line) == 1:
        panel.axhline(means[0], color=colour, linewidth=0.8, linestyle=":")
        low, high = line.iloc[0][["low", "high"]]
        panel.plot(numbers * 2, [low, high], color=colour, linewidth=2.5, alpha=0.4)
    else:
        panel.fill_between(
            numbers, line["low"], line["high"], color=colour, alpha=0.15, linewidth=0
        )
    panel.plot(numbers, means, "o-", color=colour, markersize=4, label=name)
