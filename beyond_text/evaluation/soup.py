"""Mixes the weights of finished models, measures each mixture on several shops, and keeps the best.

Two kinds: mixtures of a run with what it started from (WiSE-FT, Wortsman et al. 2022, arXiv
2109.01903), and averages of several runs (model soups, Wortsman et al. 2022, arXiv 2203.05482).
The best on the run's own dev split is kept: other shops are reported, and choose nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from tqdm import tqdm

from beyond_text.config.load import load_config, to_yaml
from beyond_text.config.names import SOUP, UNTOUCHED
from beyond_text.config.views import View
from beyond_text.evaluation.compare import names_of
from beyond_text.evaluation.soup_report import chart, markdown, table_of
from beyond_text.files import atomic_folder, sha256_of, write_json, write_text
from beyond_text.metrics.history import name_in, read_history, save_history
from beyond_text.metrics.ranking import Ranking, per_query
from beyond_text.metrics.results import METRICS, write_results
from beyond_text.models.checkpoint import MODEL, WEIGHTS, merged_state, save_model
from beyond_text.models.mixing import (
    Ingredient,
    check_alike,
    mixed,
    read_ingredient,
    with_fusion_of,
)
from beyond_text.models.two_tower import TwoTower
from beyond_text.retrieval.encode import Encoder
from beyond_text.retrieval.run import load_run, split_for
from beyond_text.shards.store import Folder, Store
from beyond_text.terminal import plain
from beyond_text.training.dev import DevSet, Measured, PairRetrieval, QueryRetrieval, read_dev
from beyond_text.training.untouched import untouched

# The names of averages in tables, which no run has there.
AVERAGES = ("uniform", "greedy")


class Mix(NamedTuple):
    """A mixture: its name in tables, and the weight of each ingredient."""

    name: str
    weights: tuple[float, ...]


class Shop(NamedTuple):
    """A shop's products and queries, and its name in tables."""

    name: str
    dev: DevSet


class Tasting:
    """Measures mixtures of some ingredients, each on every shop once; the first shop is home."""

    def __init__(
        self, encoder: Encoder, ingredients: Sequence[Ingredient], shops: Sequence[Shop]
    ) -> None:
        self.encoder = encoder
        self.states = [ingredient.state for ingredient in ingredients]
        self.shops = shops
        self._measured: dict[tuple[tuple[float, ...], str], Measured] = {}

    def measure(self, mix: Mix, shop: Shop) -> Measured:
        """Returns the metrics and rankings of a mixture on a shop."""
        key = mix.weights, shop.name
        if key not in self._measured:
            self.encoder.model.load_state_dict(mixed(self.states, mix.weights))
            measured = shop.dev.measure(self.encoder)
            assert measured is not None
            self._measured[key] = measured
        return self._measured[key]

    def values(self, mix: Mix, shop: Shop) -> dict[View, pd.Series]:
        """Returns nDCG@10 of each query of a shop, by the view of the products.

        A query that could not be encoded finds nothing, as in an evaluation.
        """
        queries, qrels = shop.dev.query_set.queries, shop.dev.query_set.qrels

        def asked(ranking: Ranking) -> pd.DataFrame:
            # Texts search pictures alone, and pictures texts.
            is_of_view = queries["query_id"].isin(ranking.query_ids)
            return queries[is_of_view] if isinstance(shop.dev, PairRetrieval) else queries

        return {
            view: per_query(ranking, asked(ranking), qrels, "ndcg@10")
            for view, ranking in self.measure(mix, shop).rankings.items()
        }

    def score(self, mix: Mix) -> float:
        """Returns what mixtures are chosen by: the mean nDCG@10 of home's fused vectors.

        Home without queries has no fused vectors that are measured: the mean of all is taken.
        """
        values = self.values(mix, self.shops[0])
        counted = [values["product"]] if "product" in values else list(values.values())
        return float(pd.concat(counted).mean())

    def best(self, mixes: Sequence[Mix]) -> Mix:
        """Returns the mixture with the best score; of equal ones, the last."""
        return max(reversed(mixes), key=self.score)


def interpolate(
    run: Path, start: str, alphas: Sequence[float], others: Sequence[Folder], out: Path
) -> str:
    """Measures alpha * RUN + (1 - alpha) * START for each alpha, and writes the best as a run.

    `start` is a run folder, or `untouched`: the model that RUN began with before its first stage.
    Returns the table as Markdown.

    Raises:
        ValueError: START is RUN.
        CheckpointError: no finished model there, or models that cannot be mixed.
        TableError, ShardError, ConfigError: shops or encoders are missing or damaged.
    """
    if start != UNTOUCHED and Path(start).resolve() == run.resolve():
        raise ValueError(f"{start}: is RUN itself, of which every mixture is the same")
    ours = read_ingredient(run)
    theirs = _start_of(run, start)
    taken = with_fusion_of(ours, theirs)
    if taken is not theirs:
        print(plain(f"{start}: its fusion is another one; {run}'s is taken at every alpha"))
    check_alike(ours, taken)
    # RUN itself is what the others are compared with, but is not chosen unless asked for.
    mixes = [Mix(digits(alpha), (alpha, 1 - alpha)) for alpha in sorted({*alphas, 1.0})]
    asked = [mix for mix in mixes if mix.weights[0] in alphas]
    encoder = load_run(run)
    tasting = Tasting(encoder, [ours, taken], shops_of(encoder.model, run, others))
    _taste(tasting, mixes)
    return write(tasting, "alpha", mixes, mixes[-1], tasting.best(asked), [str(run), start], out)


def digits(alpha: float) -> str:
    """Returns a share as it is typed; different ones have different names."""
    return repr(float(alpha)).removesuffix(".0")


def _start_of(run: Path, start: str) -> Ingredient:
    if start != UNTOUCHED:
        return read_ingredient(Path(start))
    encoder = untouched(run)
    return Ingredient(
        UNTOUCHED, encoder.model.settings, encoder.tokenizer, merged_state(encoder.model)
    )


def average(runs: Sequence[Path], others: Sequence[Folder], out: Path) -> str:
    """Averages several runs, all of them and greedily, and writes the better one as a run.

    The greedy average takes the runs from the best on the first run's dev split to the worst, and
    keeps each that does not lower the average's nDCG@10. Returns the table as Markdown.

    Raises:
        CheckpointError: no finished model there, or models that cannot be mixed.
        TableError, ShardError: shops are missing or damaged.
    """
    pairs = zip(names_of(runs), runs, strict=True)
    names = [str(run.absolute()) if name in AVERAGES else name for name, run in pairs]
    ingredients = [read_ingredient(run) for run in runs]
    for other in ingredients[1:]:
        check_alike(ingredients[0], other)
    encoder = load_run(runs[0])
    tasting = Tasting(encoder, ingredients, shops_of(encoder.model, runs[0], others))
    count = range(len(runs))
    singles = [Mix(names[n], tuple(float(n == other) for other in count)) for n in count]
    uniform = Mix(AVERAGES[0], (1 / len(runs),) * len(runs))
    _taste(tasting, [*singles, uniform])
    greedy = Mix(AVERAGES[1], _greedy(tasting, singles).weights)
    _taste(tasting, [greedy])
    best = tasting.best([greedy, uniform])
    mixes = [*singles, uniform, greedy]
    return write(tasting, "weights", mixes, singles[0], best, list(map(str, runs)), out)


def _greedy(tasting: Tasting, singles: Sequence[Mix]) -> Mix:
    """Returns the greedy soup of runs (Wortsman et al. 2022, arXiv 2203.05482, recipe 1)."""
    order = sorted(singles, key=tasting.score, reverse=True)
    kept = order[0]
    members = [kept]
    for single in order[1:]:
        together = [*members, single]
        columns = zip(*(member.weights for member in together), strict=True)
        soup = Mix("greedy", tuple(sum(column) / len(together) for column in columns))
        if tasting.score(soup) >= tasting.score(kept):
            members, kept = together, soup
    return kept


def shops_of(model: TwoTower, run: Path, others: Sequence[Folder]) -> list[Shop]:
    """Returns the run's own dev split, and those of other shops, under names that differ."""
    config = load_config([run / "config.yaml"])
    home = Store.of(config.data.dev, config.data)
    found = [read_dev(config, model.settings)]
    for folder in others:
        found.append(QueryRetrieval(*split_for(model, folder, config.data.dev_split)))
    labels = [home.label, *(str(folder).rstrip("/").rpartition("/")[2] for folder in others)]
    if len(set(labels)) < len(labels):
        labels = [str(home), *map(str, others)]
    if len(set(labels)) < len(labels):
        raise ValueError(f"--others: a shop is given twice, or is the run's own: {labels}")
    return [Shop(label, dev) for label, dev in zip(labels, found, strict=True)]


def _taste(tasting: Tasting, mixes: Sequence[Mix]) -> None:
    """Measures mixtures on every shop, with a progress bar."""
    pairs = [(mix, shop) for mix in mixes for shop in tasting.shops]
    with tqdm(pairs, desc="measuring", unit="shop") as bar:
        for mix, shop in bar:
            bar.set_postfix_str(f"{mix.name} on {shop.name}")
            tasting.measure(mix, shop)


def write(
    tasting: Tasting,
    axis: str,
    mixes: Sequence[Mix],
    base: Mix,
    best: Mix,
    ingredients: Sequence[str],
    out: Path,
) -> str:
    """Writes the best mixture as a finished run, with the table and the picture of all of them.

    Settings are those of the first run, whose training they tell. `base` is what fused vectors are
    compared with. Returns the table as Markdown.
    """
    table = table_of(
        {
            (mix.name, shop.name): (tasting.values(mix, shop), shop.dev.query_set)
            for shop in tasting.shops
            for mix in mixes
        },
        base.name,
    )
    text = markdown(table, axis, base.name, best.name)
    run = Path(ingredients[0])
    with atomic_folder(out, is_ours) as partial:
        _write_run(tasting, best, run, out, partial)
        write_text(partial / "soup.md", text)
        table.to_csv(partial / "soup.csv", index=False)
        chart(table, axis, best.name).savefig(partial / "soup.png", dpi=150)
        write_json(
            partial / SOUP,
            {
                "ingredients": {name: _digest(name) for name in ingredients},
                "weights": {mix.name: mix.weights for mix in mixes},
                "dev": {mix.name: tasting.score(mix) for mix in mixes},
                "chosen": best.name,
                "mixture": dict(zip(ingredients, best.weights, strict=True)),
            },
        )
    return text


def is_ours(folder: Path) -> bool:
    """Says whether a folder is an earlier soup, which may be replaced."""
    return (folder / SOUP).is_file()


def _digest(ingredient: str) -> str:
    """Returns the SHA-256 of a run's weights; "" of the untouched model, which is no file."""
    path = Path(ingredient) / MODEL / WEIGHTS
    return sha256_of(path) if ingredient != UNTOUCHED else ""


def _write_run(tasting: Tasting, best: Mix, run: Path, out: Path, partial: Path) -> None:
    """Writes what a finished run has: settings, model, history, rankings and metrics."""
    home = tasting.shops[0]
    measured = tasting.measure(best, home)
    model = tasting.encoder.model
    model.load_state_dict(mixed(tasting.states, best.weights))
    save_model(model, tasting.encoder.tokenizer, partial)
    config = load_config([run / "config.yaml"])
    write_text(partial / "config.yaml", to_yaml(replace(config, run=str(out))))
    history = read_history(run)
    save_history(partial, {**history, name_in(history, out): measured.by_view})
    # A run that was stopped after it wrote its model has none.
    found = run / METRICS
    metrics = json.loads(found.read_text(encoding="utf-8")) if found.is_file() else {}
    training = metrics.get("training", {})
    if measured.by_width:
        training["widths"] = measured.by_width
    query_set = home.dev.query_set
    results = {**measured.metrics, "training": training}
    write_results(partial, results, measured.ranking, query_set.queries, query_set.qrels)
