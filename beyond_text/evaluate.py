"""The command that measures a finished run: `python -m beyond_text.evaluate RUN --tables TABLES`.

The model comes from the run folder alone. Writes metrics.json, run.trec and qrels.trec; the search
is exact, over all products of the split.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any, get_args

import torch
from rich.console import Console
from rich.table import Table

from beyond_text.checkpoint import load_model
from beyond_text.config import View, load_config
from beyond_text.corpus import Corpus, read_corpus
from beyond_text.encode import rank
from beyond_text.metrics import Ranking, retrieval_metrics
from beyond_text.tables import TableError
from beyond_text.trec import write_trec

Metrics = dict[str, dict[str, Any]]
SHOWN = ("ndcg@1", "ndcg@10", "recall@10", "recall@100", "mrr")


def bf16_is_fast(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 natively."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        able = torch.cpu.get_capabilities()
        return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    return False


def precision_of(asked: str) -> str:
    """Lightning's precision; `auto` is bfloat16 autocast where the device computes it natively."""
    if asked != "auto":
        return asked
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return "bf16-mixed" if bf16_is_fast(device) else "32-true"


def write_json(path: Path, content: Any) -> None:
    """Writes a file that is whole or not there."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)


def write_results(out: Path, metrics: Metrics, ranking: Ranking, corpus: Corpus) -> None:
    """Writes the TREC files, then metrics.json, whose presence says that all is there."""
    out.mkdir(parents=True, exist_ok=True)
    write_trec(out, ranking, corpus.qrels, corpus.queries)
    write_json(out / "metrics.json", metrics)


def show(title: str, rows: dict[str, Metrics], measures: tuple[str, ...] = SHOWN) -> None:
    """Prints a row a name and kind of query, a column a measure."""
    table = Table(title=title, title_justify="left")
    for heading in ("", "queries", "number"):
        table.add_column(heading)
    for measure in measures:
        table.add_column(measure, justify="right")
    for name, metrics in rows.items():
        for kind, block in metrics.items():
            if "queries" in block:
                values = [f"{block[m]:.3f}" if m in block else "-" for m in measures]
                table.add_row(name, kind, str(block["queries"]), *values)
        table.add_section()
    Console(width=max(100, Console().width)).print(table)


def evaluate(run: Path, tables: Path, split: str, out: Path, view: View = "product") -> Metrics:
    """Ranks a split's products for its queries with a run's model; writes and returns the metrics.

    In the precision of the run's config.yaml, so the numbers are those that training reported.

    Raises:
        CheckpointError: no finished model in `run`.
        TableError, ShardError: no such tables or split.
    """
    model, tokenizer = load_model(run)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    settings = model.settings
    corpus = read_corpus(
        tables, split, settings.text_fields, settings.image_size, settings.picture_size
    )
    workers = max(1, (os.cpu_count() or 1) - 1)
    saved = run / "config.yaml"
    precision = precision_of(load_config([saved]).precision if saved.is_file() else "auto")
    bf16 = precision == "bf16-mixed"
    found = rank(model, tokenizer, corpus, (view,), bf16=bf16, workers=workers)
    if view not in found:
        raise TableError(f"{tables}: no product of split {split!r} has the view {view!r}")
    metrics = retrieval_metrics(found[view], corpus.queries, corpus.qrels)
    write_results(out, metrics, found[view], corpus)
    return metrics


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(prog="python -m beyond_text.evaluate", description=__doc__)
    parser.add_argument("run", type=Path, help="run folder with a finished model")
    parser.add_argument("--tables", type=Path, required=True, help="folder of tables or shards")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--out", type=Path, help="default: RUN/eval-SPLIT")
    parser.add_argument(
        "--view",
        choices=get_args(View)[1:],
        default="product",
        help="which product vectors are searched (default: the fused ones)",
    )
    arguments = parser.parse_args()
    out = arguments.out or arguments.run / f"eval-{arguments.split}"
    try:
        metrics = evaluate(arguments.run, arguments.tables, arguments.split, out, arguments.view)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    show(f"{arguments.run} on {arguments.tables} ({arguments.split})", {"": metrics})
    print(f"written to {out}")


if __name__ == "__main__":
    main()
