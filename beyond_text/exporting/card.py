"""Writes the model card of an export: what it is, what was measured, how it is used."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from huggingface_hub import ModelCard, ModelCardData

from beyond_text.config.load import config_of
from beyond_text.config.names import SOUP
from beyond_text.config.settings import Config
from beyond_text.exporting.check import Quality
from beyond_text.exporting.snippets import databases, loading
from beyond_text.metrics.ranking import needs, per_query, query_kinds
from beyond_text.metrics.results import whole
from beyond_text.metrics.significance import interval
from beyond_text.metrics.trec import read_trec
from beyond_text.models.two_tower import TwoTower
from beyond_text.shards.manifest import ShardError, read_manifest
from beyond_text.terminal import plain

CARD = "README.md"
PUNCTUATION = re.compile(r"([\\`*_{}\[\]()#+!|~$:/@-])")
UNKNOWN = "unknown"


class Facts(NamedTuple):
    """What an export found out about itself.

    Attributes:
        difference: largest difference of a vector's entry from torch's.
        int8: nDCG@10 by float32 and int8, or why it was not measured.
        no_query_folder: why there is no sentence-transformers folder; None where there is one.
        products: the number of products in vectors.parquet; None without them.
    """

    difference: float
    int8: Quality | str
    no_query_folder: str | None
    products: int | None


def as_data(text: object) -> str:
    """Returns what a shop or a user wrote as Markdown that shows it and obeys none of it."""
    return PUNCTUATION.sub(r"\\\1", html.escape(plain(text), quote=False))


def write_card(run: Path, model: TwoTower, facts: Facts, out: Path) -> None:
    """Writes OUT/README.md."""
    config = config_of(run)
    library = "sentence-transformers" if facts.no_query_folder is None else "onnx"
    data = ModelCardData(
        library_name=library,
        pipeline_tag="sentence-similarity",
        tags=["beyond-text", "product-search", "multimodal", "onnx"],
        license=UNKNOWN,
    )
    parts = [
        f"---\n{data.to_yaml()}\n---",
        "# A two-tower model for product search",
        _opening(model, facts),
        "## What was measured",
        _metrics(run),
        _of_export(facts),
        "## Training",
        _training(config) + _mixture(run),
        _settings(config),
        "## Licences",
        _licences(config),
        "## How to load it",
        loading(facts.no_query_folder is None),
        "## In a vector database",
        databases(model.settings.dim, facts.products),
        "## What it is not good for",
        _limits(model, facts),
    ]
    ModelCard("\n\n".join(parts) + "\n").save(out / CARD)


def _opening(model: TwoTower, facts: Facts) -> str:
    settings = model.settings
    lines = [
        "Made by [Beyond Text](https://arxiv.org/abs/2603.04836)'s open recipe. It encodes queries "
        "(words, a picture or both) and products (text, pictures or both) as unit vectors of "
        f"{settings.dim} numbers in one space; their products are cosines. A product's text and "
        f"picture are fused by `{settings.fusion}`."
    ]
    if facts.no_query_folder is not None:
        lines.append(
            "There is no sentence-transformers folder of this model: "
            f"{facts.no_query_folder}. Use the graphs in `onnx/`."
        )
    return "\n\n".join(lines)


def _metrics(run: Path) -> str:
    """Returns a table of nDCG@10 by kind of query, of the run's own last measurement."""
    try:
        ranking, queries, qrels = read_trec(run)
        values = per_query(ranking, queries, qrels)
    except (OSError, ValueError) as error:
        return f"The run keeps no measurement ({as_data(error)})."
    measured = whole(_read_json(run / "metrics.json"))
    kinds = query_kinds(queries).reindex(values.index)
    rows = ["| queries | number | nDCG@10 | 95 % interval |", "|---|--:|--:|---|"]
    for kind in ("all", *sorted(kinds.unique())):
        part = values if kind == "all" else values[kinds == kind]
        mean, low, high = interval(part.to_numpy(), needs(part.index, qrels))
        between = "not known" if math.isnan(low) else f"{low:.3f} to {high:.3f}"
        rows.append(f"| {as_data(kind)} | {len(part)} | {mean:.3f} | {between} |")
    pool = {"all": "the whole catalogue", "split": "all of the split"}.get(measured.get("pool", ""))
    searched = f"{measured.get('products', 'an unknown number of')} products searched"
    return "\n".join([*rows, "", f"{searched}, {pool or 'which ones is not known'}."])


def _of_export(facts: Facts) -> str:
    lines = [
        f"The graphs give PyTorch's vectors up to {facts.difference:.1g} in every number, measured "
        "when they were written, with texts, pictures and both."
    ]
    if isinstance(facts.int8, Quality):
        exact, small, queries, products = facts.int8
        lines.append(
            f"`query.int8.onnx` gives an nDCG@10 of {small:.4f} where float32 gives {exact:.4f} "
            f"({small - exact:+.4f}; {queries:,} queries of words, {products:,} products)."
        )
    else:
        lines.append(f"What `query.int8.onnx` costs was not measured: {as_data(facts.int8)}.")
    return "\n\n".join(lines)


def _training(config: Config | None) -> str:
    if config is None:
        return "The run does not say what it was trained on."
    rows = ["| source | products | pictures | queries | judged pairs |", "|---|--:|--:|--:|--:|"]
    for name, source in config.data.sources.items():
        try:
            train = read_manifest(source.path)["splits"]["train"]
        except (ShardError, OSError, KeyError):
            rows.append(f"| {as_data(name)} | {UNKNOWN} | {UNKNOWN} | {UNKNOWN} | {UNKNOWN} |")
            continue
        counts = (train[key] for key in ("products", "pictures", "queries", "judged_pairs"))  # type: ignore[literal-required]
        rows.append(" | ".join([f"| {as_data(name)}", *(f"{c:,}" for c in counts)]) + " |")
    start = as_data(Path(config.start).name) if config.start else "the untouched encoders"
    return "\n".join([*rows, "", f"It started from {start}."])


def _mixture(run: Path) -> str:
    """Returns a paragraph on the runs whose weights are mixed; "" of a run that was trained."""
    if not (run / SOUP).is_file():
        return ""
    mixture = _read_json(run / SOUP).get("mixture", {})
    parts = [f"{weight:.3g} of {as_data(Path(name).name)}" for name, weight in mixture.items()]
    return f"\n\nIts weights are a mixture of those of several runs: {', '.join(parts)}."


def _settings(config: Config | None) -> str:
    if config is None:
        return ""
    losses = {name: weight for name, weight in vars(config.losses).items() if weight}
    shown = {
        "steps": config.total_steps,
        "batch size": config.batch_size,
        "losses": ", ".join(f"{name} {weight:g}" for name, weight in losses.items()),
        "kind of contrast": config.loss,
        "fusion": f"{config.fusion}, rank {config.fusion_rank}",
        "seed": config.seed,
        "text": ", ".join(config.data.text_fields),
    }
    rows = [f"| {name} | {as_data(value)} |" for name, value in shown.items()]
    return "\n".join(["| setting | value |", "|---|---|", *rows])


def _licences(config: Config | None) -> str:
    """Returns the licence of each backbone, as far as its own folder says it."""
    if config is None:
        return f"Backbones: {UNKNOWN}."
    backbones = {"text": config.text_encoder.path, "image": config.image_encoder.path}
    rows = ["| backbone | name | licence |", "|---|---|---|"]
    for kind, path in backbones.items():
        rows.append(f"| {kind} | {as_data(_last_parts(path))} | {as_data(_licence(path))} |")
    further = (
        f"A licence that is {UNKNOWN} here was not found beside the weights: ask who made them "
        "before you use this model. The weights of this model are derived from them and from the "
        "training data, whose terms hold too."
    )
    return "\n".join([*rows, "", further])


def _last_parts(path: str) -> str:
    """Returns the end of a path: folders above it are of the machine that trained."""
    return path if path.count("/") == 1 else Path(path).name


def _licence(path: str) -> str:
    """Reads a licence from the card beside an encoder's weights."""
    file = Path(path) / CARD
    try:
        found = ModelCard.load(file, ignore_metadata_errors=True).data.license
    except (OSError, ValueError):
        return UNKNOWN
    return str(found) if found else UNKNOWN


def _limits(model: TwoTower, facts: Facts) -> str:
    points = [
        "Other shops, languages and kinds of products than those it was trained on: measure first.",
        "Exact ids, model numbers and amounts: combine it with a lexical search.",
        f"Texts longer than {model.settings.max_length} tokens: what follows is cut off.",
        "Deciding anything about people, or what is safe, allowed or true of a product.",
    ]
    if facts.products is not None:
        points.append(
            "Vectors of another model in one index: cosines between the two mean nothing."
        )
    return "\n".join(f"- {point}" for point in points)


def _read_json(file: Path) -> Mapping[str, Any]:
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
    except (OSError, ValueError):
        return {}
