"""Reads, writes and prints a run's history.json: the metrics at step 0 and after each stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from beyond_text.config.views import View
from beyond_text.files import write_json


def read_history(run: Path) -> dict[str, dict[View, Any]]:
    """Reads the metrics of every view, by stage in order: step 0 first, this run last."""
    path = run / "history.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def save_history(run: Path, history: dict[str, dict[View, Any]]) -> None:
    """Writes the history that `read_history` reads."""
    write_json(run / "history.json", history)


def print_history(run: Path) -> None:
    """Prints nDCG@10 of each view after each stage, beside the best that there was before training.

    That is the best of all views at step 0. The product view is the one that is served; text and
    image show what it is made of.
    """
    table = Table(title=f"{run}: dev nDCG@10 (recall@10)", title_justify="left")
    history = read_history(run)
    table.add_column("product vector")
    table.add_column("queries")
    before = history.get("step 0", {})
    if before:
        table.add_column("best before", justify="right")
    for name in history:
        table.add_column(name, justify="right")
    for view in next(iter(history.values())):
        for kind in list(history.values())[-1].get(view, {}):
            blocks = [stage.get(view, {}).get(kind, {}) for stage in history.values()]
            cells = [
                f"{block['ndcg@10']:.3f} ({block['recall@10']:.3f})" if "ndcg@10" in block else "-"
                for block in blocks
            ]
            if before:
                cells.insert(0, _best(before, kind))
            table.add_row({"product": "fused"}.get(view, view), kind, *cells)
        table.add_section()
    # A cell that is cut says less than a line that the terminal breaks.
    Console(width=max(60 + 20 * len(history), Console().width)).print(table)


def _best(before: dict[View, Any], kind: str) -> str:
    """Returns the best nDCG@10 of a kind of query over all views, and the view."""
    found = {
        {"product": "fused"}.get(view, view): kinds[kind]["ndcg@10"]
        for view, kinds in before.items()
        if "ndcg@10" in kinds.get(kind, {})
    }
    best = max(found, key=found.__getitem__, default=None)
    return "-" if best is None else f"{found[best]:.3f} {best}"
