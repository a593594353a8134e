"""Turns logs into queries and judgments: query-title logs, and logs of clicks and purchases.

Ids are made of content, so a query or title has the same one in every log.
"""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from beyond_text.tables.checks import RowFilter
from beyond_text.tables.layouts import JUDGMENT_COLUMNS, Reject
from beyond_text.tables.splits import content_id
from beyond_text.tables.text import normal_text

# What an event says about a product for a query, in clicks; an impression only says it was shown.
EVENT_WEIGHTS = {"impression": 0.0, "view": 1.0, "click": 1.0, "cart": 3.0, "purchase": 5.0}
EVENT_NAMES = {
    "impression": ("impressions", "shown", "exposure", "search_impression", "view_item_list"),
    "view": ("product_view", "page_view", "detail", "view_item", "pageview", "product_viewed"),
    "click": ("clicked", "select_item", "product_click", "product_clicked"),
    "cart": ("add_to_cart", "addtocart", "add", "basket", "atc", "product_added"),
    "purchase": ("order", "buy", "transaction", "bought", "purchased", "sale", "order_completed"),
}
KIND_OF_EVENT = {name: kind for kind, names in EVENT_NAMES.items() for name in (kind, *names)}
HIGHEST = 3.0
# Clicks from which a query's favourite has the highest grade, where nothing says how often shown.
ENOUGH = 3.0
# Impressions that the mean click rate of the log weighs in that of a product.
PRIOR = 10.0
MOST_EVENTS = 1e12


def title_log(
    log: pd.DataFrame, row_filter: RowFilter
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Returns products, queries and judgments of a log: each title is a product.

    The lowest relevance in the file becomes grade 0. Queries of one wording are one query, of kind
    "log".
    """
    log = row_filter.drop(log, log["query"] == "", "empty query", "query", "a text")
    log = row_filter.drop(log, log["title"] == "", "no text and no picture", "title", "a text")
    log = row_filter.grades(log, ["relevance"])
    # Rounded, so that 2.67 - 1 is written as 1.67.
    log["relevance"] = (log["relevance"] - log["relevance"].min()).round(6)
    log["product_id"] = [content_id("title", title) for title in log["title"]]
    log, queries = _queries(log, row_filter, "log")
    products = log[["row", "product_id", "title"]].drop_duplicates("product_id")
    columns = [name for name in ("row", *JUDGMENT_COLUMNS, "split") if name in log]
    return products.reset_index(drop=True), queries, log[columns]


def click_log(
    log: pd.DataFrame, products: pd.Series, row_filter: RowFilter, rejected: dict[str, Reject]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Returns queries, of kind "clicks", and judgments of a log of events or counts.

    Events of a query and a product are added up, weighted by `EVENT_WEIGHTS`, to w. Their score is
    the click rate where the log says how often a product was shown, n, shrunk towards the mean rate
    m of the log as by PRIOR impressions (an empirical Bayes estimate), else it is damped:

        s = (w + PRIOR m) / (n + PRIOR)    or    s = log2(1 + w)
        relevance = HIGHEST s / max(highest s of the query, floor)

    The floor is m, or log2(1 + ENOUGH): few clicks are no proof. What was shown and never clicked
    has relevance 0.

    Args:
        log: query, product_id, and event, clicks, impressions, split where the file has them.
        products: the ids in use.
        row_filter: of the log's file.
        rejected: rows of products that are not used, by id.
    """
    log = row_filter.drop(log, log["query"] == "", "empty query", "query", "a text")
    log = row_filter.known(log, "product_id", products, rejected)
    counts = [name for name in ("clicks", "impressions") if name in log]
    # An empty cell says that nothing was counted.
    log = log.assign(**{name: log[name].mask(log[name] == "", "0") for name in counts})
    log = row_filter.numbers(log, counts, MOST_EVENTS, "bad count")
    kinds = pd.Series("click", index=log.index)
    if "event" in log:
        kinds = log["event"].map(_kind_of_event)
        known = f"one of {', '.join(EVENT_WEIGHTS)}"
        log = row_filter.drop(log, kinds == "", "unknown event", "event", known)
        kinds = kinds[kinds != ""].reset_index(drop=True)
    number = log["clicks"] if "clicks" in log else pd.Series(1.0, index=log.index)
    rates = "impressions" in log or bool((kinds == "impression").any())
    log["weight"] = kinds.map(EVENT_WEIGHTS).astype(float) * number
    if "impressions" in log and not {"clicks", "event"} & set(log):
        # Rows that say how often a product was shown, and of no click.
        log["weight"] = 0.0
    log["shown"] = number.where(kinds == "impression", 0.0) + log.get("impressions", 0.0)
    log, queries = _queries(log, row_filter, "clicks")
    further = {"split": ("split", "first")} if "split" in log else {}
    qrels = log.groupby(["query_id", "product_id"], sort=False, as_index=False, observed=True).agg(
        row=("row", "first"), weight=("weight", "sum"), shown=("shown", "sum"), **further
    )
    qrels["relevance"] = _relevance(qrels, rates)
    columns = ["row", *JUDGMENT_COLUMNS, *further]
    return queries, qrels[columns].sort_values("row", kind="stable").reset_index(drop=True)


def _relevance(qrels: pd.DataFrame, rates: bool) -> pd.Series:
    """Returns the relevance of pairs with `weight` and `shown`; see `click_log`."""
    weight, shown = qrels["weight"], qrels["shown"]
    if rates:
        # Carts and purchases may come without the impression before them.
        shown = np.maximum(shown, (weight > 0).astype(float))
        floor = weight.sum() / max(shown.sum(), 1.0)
        score = (weight + PRIOR * floor) / (shown + PRIOR)
    else:
        score, floor = np.log2(1 + weight), np.log2(1 + ENOUGH)
    score = score.where(weight > 0, 0.0)
    best = score.groupby(qrels["query_id"]).transform("max").clip(lower=max(floor, 1e-12))
    return (HIGHEST * score / best).round(4)


def _kind_of_event(name: str) -> str:
    """Returns the kind of an event of `EVENT_WEIGHTS`, or "" where the name is not known."""
    return KIND_OF_EVENT.get(re.sub(r"[\W_]+", "_", name.casefold()).strip("_"), "")


def _queries(
    log: pd.DataFrame, row_filter: RowFilter, kind: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Returns the log with a query_id for each wording, and the queries, shown as first written.

    A row of another split than the first of its query is rejected.
    """
    ids = [content_id("query", normal_text(query)) for query in log["query"]]
    log = log.assign(query_id=ids)
    if "split" in log:
        log = row_filter.splits(log)
        first = log.groupby("query_id")["split"].transform("first")
        one = "the split of the query's first row"
        log = row_filter.drop(log, log["split"] != first, "crosses splits", "split", one)
    columns = [name for name in ("row", "query_id", "query", "split") if name in log]
    queries = log[columns].drop_duplicates("query_id").reset_index(drop=True)
    return log, queries.assign(kind=kind, image="", product_id="")
