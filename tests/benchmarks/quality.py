"""The command that measures what a dev nDCG costs: seconds of training, and memory at its peak.

    python -m tests.benchmarks.quality SHARDS --out runs/benchmarks/quality.json

Every contender trains in a process of its own, for equally many steps, from the same encoders on
the same shards, with the recipe's learning rate of the text encoder and a tenth of the steps as
warm-up. Every few steps the clock stops and the dev queries rank the products: by their pictures in
stage 1, by their texts in stage 2. The result is the seconds that each contender needs to reach the
best nDCG@10 that both contenders of a stage reach, counted from the end of the first step.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.optim.optimizer import register_optimizer_step_post_hook

from beyond_text.config.views import View
from beyond_text.files import write_json
from beyond_text.metrics.ranking import retrieval_metrics
from beyond_text.models.precision import uses_bf16
from beyond_text.retrieval.catalogue import Catalogue
from beyond_text.retrieval.encode import Encoder, Vectors, encode_products, encode_queries
from beyond_text.retrieval.query_set import QuerySet
from beyond_text.retrieval.ranking import own_products, search
from beyond_text.retrieval.read_split import read_split
from beyond_text.shards.transform import to_square
from beyond_text.training.averaging import averaged
from tests.benchmarks import peers, recipe
from tests.benchmarks.measure import command_line, once_apart, peak_bytes, surroundings
from tests.benchmarks.recipe import Setting, setting_of

MEASURE = "ndcg@10"


class Point(NamedTuple):
    """The nDCG@10 of the dev queries after some steps and seconds of training."""

    step: int
    seconds: float
    ndcg: float


class Contender(NamedTuple):
    """One round of training, and the vectors of queries and products by the weights at a moment."""

    rounds: Iterator[float]
    encode: Callable[[Catalogue, QuerySet], tuple[Vectors, Vectors]]


def of_recipe(setting: Setting, stage: str, view: View) -> Contender:
    """Returns a stage of the recipe, which is measured by the average of its weights."""
    steps = setting.warmup + setting.steps
    config = replace(setting.config(stage), steps=steps, checkpoint_every=steps)
    prepared = recipe.prepare(config)
    module = prepared.module
    bf16 = uses_bf16(config.precision)
    encoder = Encoder(module.model, prepared.tokenizer, bf16, workers=1)

    def encode(catalogue: Catalogue, query_set: QuerySet) -> tuple[Vectors, Vectors]:
        trainer = prepared.data.trainer
        # Before the first step there is nothing to average.
        with averaged(trainer, module) if trainer else nullcontext():
            queries = encode_queries(encoder, query_set)
            products = encode_products(encoder, catalogue, (view,))
        return queries, products[view]

    return Contender(recipe.training(setting, stage, prepared), encode)


def of_open_clip(setting: Setting) -> Contender:
    """Returns open_clip in bfloat16, which has one learning rate for both towers."""
    steps = setting.warmup + setting.steps
    rate, warmup = setting.config("stage1").rates.text_encoder, max(1, steps // 10)
    options = ["--precision", "amp_bf16", "--lr", str(rate), "--warmup", str(warmup)]
    peer = peers.open_clip_model(setting, steps, setting.workers, *options)
    size = setting.config("stage1").image_encoder.image_size

    def encode(catalogue: Catalogue, query_set: QuerySet) -> tuple[Vectors, Vectors]:
        products: list[str] = []
        vectors = []
        # In parts, so that the measurement does not raise the peak of memory.
        for numbers in torch.arange(len(catalogue.product_ids)).split(128):
            samples = [catalogue.products[number] for number in numbers.tolist()]
            pictured = [sample for sample in samples if sample.image is not None]
            pictures = [to_square(sample.image, size) for sample in pictured]
            if pictures:
                vectors.append(peer.vectors_of_pictures(torch.stack(pictures)))
                products += [sample.product_id for sample in pictured]
        queries = peer.vectors_of(query_set.queries["query"])
        return (
            Vectors(list(query_set.queries["query_id"]), queries),
            Vectors(products, np.concatenate(vectors)),
        )

    return Contender(peers.open_clip_training(setting, options, peer=peer), encode)


def of_sentence_transformers(setting: Setting) -> Contender:
    """Returns sentence-transformers in bfloat16."""
    model = peers.sentence_transformer(setting)

    def vectors(texts: Sequence[str]) -> Any:
        encoded = model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
        model.train()
        return encoded

    def encode(catalogue: Catalogue, query_set: QuerySet) -> tuple[Vectors, Vectors]:
        samples = (catalogue.products[number] for number in range(len(catalogue.product_ids)))
        texts = {sample.product_id: sample.text for sample in samples if sample.text}
        return (
            Vectors(list(query_set.queries["query_id"]), vectors(query_set.queries["query"])),
            Vectors(list(texts), vectors(list(texts.values()))),
        )

    steps = setting.warmup + setting.steps
    rounds = peers.sentence_transformers_training(
        setting,
        model,
        bf16=True,
        learning_rate=setting.config("stage2").rates.text_encoder,
        warmup_steps=max(1, steps // 10),
    )
    return Contender(rounds, encode)


CONTENDERS: dict[str, dict[str, Callable[[Setting], Contender]]] = {
    "stage1": {
        "recipe": partial(of_recipe, stage="stage1", view="image"),
        "open_clip": of_open_clip,
    },
    "stage2": {
        "recipe": partial(of_recipe, stage="stage2", view="text"),
        "sentence-transformers": of_sentence_transformers,
    },
}


def curve(
    contender: Contender, catalogue: Catalogue, query_set: QuerySet, every: int
) -> list[Point]:
    """Trains a contender; returns its dev nDCG@10 before training and every `every` steps."""
    own = own_products(catalogue, query_set)

    def ndcg() -> float:
        ranking = search(*contender.encode(catalogue, query_set), own)
        return retrieval_metrics(ranking, query_set.queries, query_set.qrels)["all"][MEASURE]

    points = [Point(0, 0.0, ndcg())]
    steps, spent, began = 0, 0.0, 0.0

    def note(*_: Any) -> None:
        nonlocal steps, spent, began
        steps += 1
        now = time.perf_counter()
        # The first step is left out: it includes the start of loaders and compilers.
        spent += now - began if steps > 1 else 0
        if steps % every == 0:
            points.append(Point(steps, spent, ndcg()))
        began = time.perf_counter()

    hook = register_optimizer_step_post_hook(note)
    try:
        next(contender.rounds)
    finally:
        hook.remove()
    return points


def to_same(curves: Mapping[str, Sequence[Point]]) -> tuple[float, dict[str, float]]:
    """Returns the best nDCG@10 that all curves reach, and the seconds that each needs for it."""
    goal = min(max(point.ndcg for point in points) for points in curves.values())
    return goal, {
        name: next(point.seconds for point in points if point.ndcg >= goal)
        for name, points in curves.items()
    }


def measured(setting: Setting, part: str, name: str, every: int) -> Iterator[dict[str, Any]]:
    """Yields a contender's curve on the dev split and this process's peak of resident bytes."""
    settings = setting.config(part)
    catalogue, query_set = read_split(
        setting.shards,
        settings.data.dev_split,
        settings.data.text_fields,
        settings.image_encoder.image_size,
    )
    points = curve(CONTENDERS[part][name](setting), catalogue, query_set, every)
    yield {"points": points, "bytes": peak_bytes()}


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = command_line("quality", __doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--every", type=int, default=10, help="steps between two rankings of dev")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    return parser.parse_intermixed_args(words)


def main(words: Sequence[str] | None = None) -> dict[str, Any]:
    """Parses the command line, measures, prints and writes."""
    arguments = _arguments(words)
    result: dict[str, Any] = {}
    table = Table(
        "part", "contender", "to nDCG@10", "seconds", "best nDCG@10", "peak of memory, GB"
    )
    for part in arguments.only:
        counts = {"batch": arguments.batch, "steps": arguments.steps - 1}
        with setting_of(arguments, **counts, warmup=1, workers=arguments.workers) as setting:
            results = {
                name: once_apart(partial(measured, setting, part, name, arguments.every))
                for name in CONTENDERS[part]
            }
        curves = {name: one["points"] for name, one in results.items()}
        goal, seconds = to_same(curves)
        for name, points in curves.items():
            best = max(point.ndcg for point in points)
            figures = goal, seconds[name], best, results[name]["bytes"] / 1e9
            table.add_row(part, name, *(f"{figure:.3f}" for figure in figures))
        result[part] = {"ndcg@10": goal, "seconds": seconds, "measured": results}
    Console(width=max(100, Console().width)).print(table)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    words_given = {key: str(value) for key, value in vars(arguments).items()}
    compared = {**surroundings(), "given": words_given}
    write_json(arguments.out, {**result, "compared": compared})
    print(arguments.out)
    return result


if __name__ == "__main__":
    main()
