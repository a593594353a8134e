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
    """Prints nDCG@10 of each view after each stage, beside that of the untouched encoders.

    The product view is the one that is served; text and image show what it is made of.
    """
    table = Table(title=f"{run}: dev nDCG@10 (recall@10)", title_justify="left")
    history = read_history(run)
    table.add_column("product vector")
    table.add_column("queries")
    for name in history:
        table.add_column(name, justify="right")
    for view in next(iter(history.values())):
        for kind in list(history.values())[-1].get(view, {}):
            blocks = [stage.get(view, {}).get(kind, {}) for stage in history.values()]
            cells = [
                f"{block['ndcg@10']:.3f} ({block['recall@10']:.3f})" if "ndcg@10" in block else "-"
                for block in blocks
            ]
            table.add_row({"product": "fused"}.get(view, view), kind, *cells)
        table.add_section()
    Console(width=max(100, Console().width)).print(table)
