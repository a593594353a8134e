"""Reads, writes and prints a run's history.json: the metrics at step 0 and after each stage."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from beyond_text.config.views import View
from beyond_text.files import write_json
from beyond_text.terminal import print_table


def read_history(run: Path) -> dict[str, dict[View, Any]]:
    """Reads the metrics of every view, by stage in order: step 0 first, this run last."""
    path = run / "history.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def name_in(history: Mapping[str, Any], run: Path) -> str:
    """Returns the name of a further run: its folder's, or its path where that name is taken.

    Folders of one name in two places are two runs.
    """
    return str(run) if run.name in history else run.name


def save_history(run: Path, history: dict[str, dict[View, Any]]) -> None:
    """Writes the history that `read_history` reads."""
    write_json(run / "history.json", history)


def print_history(run: Path) -> None:
    """Prints nDCG@10 of each view after each stage, beside the best that there was before training.

    That is the best of all views at step 0. The product view is the one that is served; text and
    image show what it is made of.
    """
    history = read_history(run)
    before = history.get("step 0", {})
    sections = []
    for view in dict.fromkeys(view for stage in history.values() for view in stage):
        rows = []
        for kind in list(history.values())[-1].get(view, {}):
            blocks = [stage.get(view, {}).get(kind, {}) for stage in history.values()]
            cells = [
                f"{block['ndcg@10']:.3f} ({block['recall@10']:.3f})" if "ndcg@10" in block else "-"
                for block in blocks
            ]
            if before:
                cells.insert(0, _best(before, kind))
            rows.append([{"product": "fused"}.get(view, view), kind, *cells])
        sections.append(rows)
    numbers = ["best before", *history] if before else list(history)
    pool = next((n for block in _blocks(history) if (n := block.get("products"))), None)
    among = f", {pool:,} products searched" if pool else ""
    title = f"{run}: dev nDCG@10 (recall@10){among}"
    # A cell that is cut says less than a line that the terminal breaks.
    width = 60 + 20 * len(history)
    print_table(title, ["product vector", "queries", *numbers], sections, numbers, width)


def _best(before: dict[View, Any], kind: str) -> str:
    """Returns the best nDCG@10 of a kind of query over all views, and the view."""
    found = {
        {"product": "fused"}.get(view, view): kinds[kind]["ndcg@10"]
        for view, kinds in before.items()
        if "ndcg@10" in kinds.get(kind, {})
    }
    best = max(found, key=found.__getitem__, default=None)
    return "-" if best is None else f"{found[best]:.3f} {best}"


def _blocks(history: dict[str, dict[View, Any]]) -> Iterator[dict[str, Any]]:
    """Yields the block over all queries of each view, the last stage first."""
    for stage in reversed(history.values()):
        for kinds in stage.values():
            yield kinds.get("all", {})
