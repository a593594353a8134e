"""Scores what vectors find, what words find, and both: their weighted sum, and reciprocal ranks.

Every ranking is exact over all products. The weight of the sum is tuned on train queries among the
train products, never on the queries that are measured. Words are those of a product's text, its id
and its further columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from beyond_text.evaluation.judged import kinds_and_needs, needs_of, parts_of
from beyond_text.metrics.ranking import (
    Ranking,
    checked_grades,
    grade_columns,
    per_query,
    query_kinds,
)
from beyond_text.metrics.significance import compare_paired, in_words, interval, with_interval
from beyond_text.retrieval.catalogue import Catalogue
from beyond_text.retrieval.encode import Encoder, encode_products, encode_queries
from beyond_text.retrieval.hybrid import (
    RRF_K,
    reciprocal_rank_fusion,
    tune_weight,
    weighted,
)
from beyond_text.retrieval.lexical import TRUST, Lexical, best_of, searched_text
from beyond_text.retrieval.query_set import QuerySet
from beyond_text.retrieval.ranking import BELOW_ALL, own_products
from beyond_text.terminal import table_row

MEASURE = "ndcg@10"
METHODS = {
    "vector": "vectors alone",
    "bm25": "words alone",
    "weighted": "weighted sum",
    "rrf": "reciprocal ranks",
}
COMPARED = (("weighted", "vector"), ("weighted", "rrf"), ("rrf", "vector"), ("bm25", "vector"))
# Train queries that the weight is tuned on, as many of each kind, drawn by SEED.
TUNED_ON = 600
SEED = 0
DEPTH = 100
# Of either side, how many products are fused by reciprocal ranks.
RRF_DEPTH = 1000
NOTE = (
    f"{MEASURE}, with 95 % bootstrap intervals. Every ranking is exact over all products. The "
    "weighted sum is weight x cosine + (1 - weight) x BM25 / the query's best BM25 x the trust in "
    "the query's words: the largest share of them, by idf, that a product has, to the power of "
    f"{TRUST}. Words are those of a product's text, its id and its further columns. Reciprocal "
    "ranks are the sum of "
    f"1 / ({RRF_K} + rank) over the first {RRF_DEPTH:,} of either. Differences are paired by "
    "query, with a sign-flip permutation test over needs: queries that want the same products."
)
# weight; tuned (queries, products, seed, and the mean by weight); the kind and need of each query;
# and by ranking (METHODS) each query's value of MEASURE.
Scores = dict[str, Any]


class _Found(NamedTuple):
    """What both sides say of one query: scores of all products, and which may be found."""

    query_id: str
    cosines: Float[np.ndarray, " products"]
    words: Float[np.ndarray, " products"]
    rows: np.ndarray


class _Sides:
    """Vectors and words of a catalogue's products, in descending order of their ids."""

    def __init__(self, encoder: Encoder, catalogue: Catalogue) -> None:
        self.encoder, self.catalogue = encoder, catalogue
        order = sorted(range(len(catalogue.product_ids)), key=catalogue.product_ids.__getitem__)
        # Equal scores come by position, which is trec_eval's order then.
        order.reverse()
        self.ids = [catalogue.product_ids[number] for number in order]
        products: Any = catalogue.products
        described = (products.describe(number) for number in order)
        self.lexical = Lexical.build(
            searched_text(each.product_id, each.text, each.columns) for each in described
        )
        encoded = encode_products(encoder, catalogue)["product"]
        self.position = {product_id: place for place, product_id in enumerate(self.ids)}
        self.places = [self.position[product_id] for product_id in encoded.ids]
        self.vectors = encoded.vectors

    def find(self, query_set: QuerySet) -> Iterator[_Found]:
        """Yields the scores of each query."""
        own = own_products(self.catalogue, query_set)
        text = query_set.queries.set_index("query_id")["query"]
        queries = encode_queries(self.encoder, query_set)
        for query_id, vector in zip(queries.ids, queries.vectors, strict=True):
            # A product without a vector is as far away as can be.
            cosines = np.full(len(self.ids), -1, dtype=np.float32)
            cosines[self.places] = self.vectors @ vector
            words = self.lexical.scores(text[query_id])
            rows = np.arange(len(self.ids))
            if itself := [self.position[each] for each in own.get(query_id, ())]:
                cosines[itself], words[itself] = BELOW_ALL, 0
                rows = np.delete(rows, itself)
            yield _Found(query_id, cosines, words, rows)


def measure(
    encoder: Encoder,
    catalogue: Catalogue,
    query_set: QuerySet,
    train: tuple[Catalogue, QuerySet],
) -> Scores:
    """Returns the scores of the four rankings of each judged query, and the weight.

    Raises:
        ValueError: no train query has a relevant product.
    """
    weight, tuned = _tuned(encoder, *train)
    sides = _Sides(encoder, catalogue)
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {method: [] for method in METHODS}
    query_ids = []
    for each in sides.find(query_set):
        query_ids.append(each.query_id)
        for method, ranking in _rankings(each, weight).items():
            found[method].append(ranking)
    values = {}
    for method, rows in found.items():
        names = [[sides.ids[place] for place in places] for _, places in rows]
        # The words of a query may find few products, so rows are of different lengths.
        scores: Any = [part.astype(np.float32) for part, _ in rows]
        whole = Ranking(query_ids, names, scores)
        values[method] = per_query(whole, query_set.queries, query_set.qrels, MEASURE)
    judged = kinds_and_needs(query_set, values["vector"].index)
    by_method = {method: each.to_dict() for method, each in values.items()}
    return {"weight": weight, "tuned": tuned, "queries": judged, MEASURE: by_method}


def _rankings(found: _Found, weight: float) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns scores and positions of the first DEPTH products by each of METHODS."""
    with_word = found.rows[found.words[found.rows] > 0]
    both = weighted(found.cosines, found.words, weight)
    sides = (
        best_of(found.cosines, found.rows, RRF_DEPTH)[1],
        best_of(found.words, with_word, RRF_DEPTH)[1],
    )
    fused, rows = reciprocal_rank_fusion(sides)
    return {
        "vector": best_of(found.cosines, found.rows, DEPTH),
        "bm25": best_of(found.words, with_word, DEPTH),
        "weighted": best_of(both, found.rows, DEPTH),
        "rrf": (fused[:DEPTH], rows[:DEPTH]),
    }


def _tuned(
    encoder: Encoder, catalogue: Catalogue, query_set: QuerySet
) -> tuple[float, dict[str, Any]]:
    """Tunes the weight on a sample of the queries; also returns what it was tuned on."""
    grades = checked_grades(query_set.qrels, grade_columns(query_set.qrels)[0])
    positive = grades[grades > 0]
    drawn = _sample(query_set, set(positive.index.get_level_values("query_id")))
    sides = _Sides(encoder, catalogue)
    gains: dict[str, dict[int, float]] = {}
    for (query_id, product_id), grade in positive.items():  # type: ignore[misc]
        if product_id in sides.position:
            gains.setdefault(query_id, {})[sides.position[product_id]] = 2.0**grade - 1
    kinds = query_kinds(drawn.queries)
    weight, means = tune_weight(
        (each.cosines, each.words, gains.get(each.query_id, {}), kinds[each.query_id])
        for each in sides.find(drawn)
    )
    tuned = {"queries": len(drawn.queries), "products": len(sides.ids), "seed": SEED}
    return weight, {**tuned, MEASURE: {f"{each:g}": mean for each, mean in means.items()}}


def _sample(query_set: QuerySet, judged: set[str]) -> QuerySet:
    """Draws at most TUNED_ON of the judged queries, as many of each kind, by SEED."""
    queries = query_set.queries.reset_index(drop=True)
    queries = queries[queries["query_id"].isin(judged)]
    random = np.random.default_rng(SEED)
    groups = [rows.index.to_numpy() for _, rows in queries.groupby("kind")]
    places: list[int] = []
    # The smallest kinds first, so that what they lack goes to the others.
    for left, group in zip(range(len(groups), 0, -1), sorted(groups, key=len), strict=True):
        share = (TUNED_ON - len(places)) // left
        places += random.permutation(group)[:share].tolist()
    places.sort()
    image = partial(_image, query_set, places)
    return QuerySet(queries.loc[places].reset_index(drop=True), query_set.qrels, image)


def _image(query_set: QuerySet, places: list[int], number: int) -> Tensor | None:
    return query_set.query_image(places[number])


def _values(scores: Scores, method: str) -> Float[np.ndarray, " queries"]:
    """Returns the values of a ranking in the order of the queries."""
    return np.array([scores[MEASURE][method][query] for query in scores["queries"]])


def _interval(scores: Scores, method: str, part: np.ndarray) -> tuple[float, float, float]:
    return interval(_values(scores, method)[part], needs_of(scores["queries"])[part])


def markdown(results: Mapping[str, Scores]) -> str:
    """Returns a table for each run (by name): means by kind of query, then paired differences."""
    lines = []
    for run, scores in results.items():
        parts = parts_of(scores["queries"])
        heads = [run, *(f"{kind} ({part.sum()})" for kind, part in parts.items())]
        lines += [table_row(heads), "|---" + "|---" * len(parts) + "|"]
        for method, words in METHODS.items():
            cells = [with_interval(*_interval(scores, method, part)) for part in parts.values()]
            lines.append(table_row([words, *cells]))
        for ours, theirs in COMPARED:
            a, b = _values(scores, ours), _values(scores, theirs)
            need = needs_of(scores["queries"])
            cells = [in_words(compare_paired(a[p], b[p], need[p])) for p in parts.values()]
            lines.append(table_row([f"{METHODS[ours]} less {METHODS[theirs]}", *cells]))
        lines += ["", _tuning(run, scores), ""]
    return "\n".join([*lines, NOTE, ""])


def _tuning(run: str, scores: Scores) -> str:
    """Says what the weight is, and what it was tuned on."""
    tuned = scores["tuned"]
    return (
        f"{run}: weight {scores['weight']:g}, tuned on {tuned['queries']:,} train queries, as many "
        f"of each kind (seed {tuned['seed']}), among {tuned['products']:,} train products; their "
        f"mean {MEASURE} is {tuned[MEASURE][format(scores['weight'], 'g')]:.3f} with it and "
        f"{tuned[MEASURE]['1']:.3f} by vectors alone."
    )


def chart(results: Mapping[str, Scores]) -> Figure:
    """Draws a panel for each run: the four rankings of each kind of query, with intervals."""
    most = max(len(parts_of(scores["queries"])) for scores in results.values())
    size = (1.5 + 1.5 * most, 0.6 + 2.8 * len(results))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(results), 1, squeeze=False)[:, 0]
    for panel, (run, scores) in zip(panels, results.items(), strict=True):
        parts = parts_of(scores["queries"])
        for number, (method, words) in enumerate(METHODS.items()):
            found = np.array([_interval(scores, method, part) for part in parts.values()])
            mean, low, high = found.T
            places = np.arange(len(parts)) + 0.2 * (number - 1.5)
            # Of equal values in needs of several sizes, a mean may be rounded beyond the interval.
            errors = np.maximum([mean - low, high - mean], 0)
            panel.bar(places, mean, 0.18, label=words, yerr=errors)
        panel.set_xticks(range(len(parts)), [f"{k} ({p.sum()})" for k, p in parts.items()])
        panel.set_title(f"{run}: weight {scores['weight']:g}", fontsize=10)
        panel.set_ylabel(MEASURE)
        panel.grid(axis="y", alpha=0.3)
    panels[0].legend(fontsize=8, ncols=len(METHODS), loc="upper center", bbox_to_anchor=(0.5, -0.1))
    return figure
