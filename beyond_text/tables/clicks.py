"""Adds up a log of clicks and purchases, which may be larger than memory, to graded judgments.

DuckDB holds the events, within the memory of `sorter` and beyond it in the folder for temporary
files; what is returned is a row for each query, and for each pair of a query and a product.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Int

from beyond_text.tables.checks import PartFilter
from beyond_text.tables.columns import read_compact
from beyond_text.tables.compact import TEXT, as_array, column_of
from beyond_text.tables.layouts import Reject, Source, TableError, TableFile
from beyond_text.tables.sorter import sorter
from beyond_text.tables.splits import content_key
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
# The place of an event is the number of its file, and below it so many bits of its row.
ROW_BITS = 40

EVENTS = """
CREATE TEMP TABLE events (
    place BIGINT, query UBIGINT, product INTEGER, weight DOUBLE, shown DOUBLE, text VARCHAR,
    split VARCHAR
)
"""
# The first event of each query, which says how the query is written and which split it is of.
ASKED = """
CREATE TEMP TABLE asked AS
SELECT query, place, text, split, row_number() OVER (ORDER BY place) - 1 AS number
FROM events JOIN (SELECT min(place) AS place FROM events GROUP BY query) USING (place)
"""
CROSSING = """
SELECT events.place, events.product, events.text, events.split
FROM events JOIN asked USING (query) WHERE events.split <> asked.split ORDER BY events.place
"""
# Decimals have the same sum in every order.
SUMS = """
SELECT min(events.place) AS place, number::INTEGER AS query, product,
    sum(weight::DECIMAL(38, 15))::DOUBLE AS weight, sum(shown::DECIMAL(38, 15))::DOUBLE AS shown
FROM events JOIN asked USING (query) WHERE events.split = asked.split
GROUP BY number, product ORDER BY 1
"""


def read_clicks(
    paths: Sequence[Path],
    source: Source,
    products: pd.Series,
    causes: dict[str, Reject],
    rejects: list[Reject],
) -> tuple[pd.DataFrame, list[pd.DataFrame], list[TableFile]]:
    """Returns queries, of kind "clicks", and judgments of a log of events or counts, file by file.

    Events of a query and a product are added up, weighted by `EVENT_WEIGHTS`, to w. Their score is
    the click rate where the log says how often a product was shown, n, shrunk towards the mean rate
    m of the log as by PRIOR impressions (an empirical Bayes estimate), else it is damped:

        s = (w + PRIOR m) / (n + PRIOR)    or    s = log2(1 + w)
        relevance = HIGHEST s / max(highest s of the query, floor)

    The floor is m, or log2(1 + ENOUGH): few clicks are no proof. What was shown and never clicked
    has relevance 0. A query is a wording, shown as first written; a judgment stands in the file of
    its first event. Events of another split than the first of their query are rejected.

    Args:
        paths: files of query, product_id, and event, clicks, impressions, split where they are.
        source: how these are named.
        products: the ids in use, each once.
        causes: rows of products that are not used, by id.
        rejects: receives the rows that are not used.

    Raises:
        TableError: a file cannot be read.
        OSError: the disk for temporary files is full.
    """
    with TemporaryDirectory(prefix="beyond-text-") as folder, sorter(Path(folder)) as connection:
        log = _Log(connection, products, causes)
        filters = [PartFilter(path.name, rejects, "query", "product_id") for path in paths]
        files = []
        connection.begin()
        for number, path in enumerate(paths):
            add = partial(log.add, row_filter=filters[number], file=number)
            files.append(read_compact(path, source, rejects, add)[1])
        connection.commit()
        queries = log.queries(filters)
        for row_filter in filters:
            row_filter.release()
        return queries, log.judgments(queries["query_id"], files), files


class _Log:
    """The events of a log in a database."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        products: pd.Series,
        causes: dict[str, Reject],
    ) -> None:
        self.connection = connection
        # An index knows that its values are distinct, and need not look again.
        self.products = pd.Index(products)
        self.causes = causes
        self.rates = False
        self.has_split: bool | None = None
        connection.execute(EVENTS)

    def add(self, part: pd.DataFrame, row_filter: PartFilter, file: int) -> pd.DataFrame:
        """Adds the events of some rows of a file; returns none of them."""
        nothing = part.iloc[:0]
        if self.has_split not in (None, "split" in part):
            raise TableError(f"{row_filter.file}: expected a column 'split' in all files or none")
        self.has_split = "split" in part
        part = row_filter.drop(part, part["query"] == "", "empty query", "query", "a text")
        part = row_filter.known(part, "product_id", self.products, self.causes)
        part = self._weighed(part, row_filter)
        if self.has_split:
            part = row_filter.splits(part)
        wording, wordings = pd.factorize(part["query"])
        keys = np.array([content_key(normal_text(each)) for each in wordings], dtype=np.uint64)
        columns = {
            "place": (file << ROW_BITS) + part["row"].to_numpy(),
            "query": keys[wording],
            "product": part["product_id"].cat.codes.to_numpy(),
            "weight": part["weight"].to_numpy(),
            "shown": part["shown"].to_numpy(),
            "text": as_array(part["query"]),
            "split": as_array(part["split"] if self.has_split else [""] * len(part)),
        }
        self.connection.register("part", pa.table(columns))
        self.connection.execute("INSERT INTO events SELECT * FROM part")
        return nothing

    def _weighed(self, part: pd.DataFrame, row_filter: PartFilter) -> pd.DataFrame:
        """Returns the rows whose events and counts can be read, with `weight` and `shown`."""
        counts = [name for name in ("clicks", "impressions") if name in part]
        # An empty cell says that nothing was counted.
        part = part.assign(**{name: part[name].mask(part[name] == "", "0") for name in counts})
        part = row_filter.numbers(part, counts, MOST_EVENTS, "bad count")
        kinds = pd.Series("click", index=part.index)
        if "event" in part:
            kinds = part["event"].map(_kind_of_event)
            known = f"one of {', '.join(EVENT_WEIGHTS)}"
            part = row_filter.drop(part, kinds == "", "unknown event", "event", known)
            kinds = kinds[kinds != ""].reset_index(drop=True)
        self.rates |= "impressions" in part or bool((kinds == "impression").any())
        number = part["clicks"] if "clicks" in part else pd.Series(1.0, index=part.index)
        weight = kinds.map(EVENT_WEIGHTS).astype(float) * number
        if "impressions" in part and not {"clicks", "event"} & set(part):
            # Rows that say how often a product was shown, and of no click.
            weight = weight * 0.0
        shown = number.where(kinds == "impression", 0.0) + part.get("impressions", 0.0)
        return part.assign(weight=weight, shown=shown)

    def queries(self, filters: Sequence[PartFilter]) -> pd.DataFrame:
        """Returns the queries in the order of their first events; rejects those of other splits."""
        self.connection.execute(ASKED)
        for events in self.connection.sql(CROSSING).to_arrow_reader(2**16):
            rows = pd.DataFrame(
                {
                    "query": events["text"].to_pylist(),
                    "product_id": self.products.take(events["product"].to_numpy()),
                    "split": events["split"].to_pylist(),
                }
            )
            file, rows["row"] = _file_and_row(events["place"])
            for number in np.unique(file):
                one = "the split of the query's first row"
                filters[number].note(rows[file == number], "crosses splits", "split", one)
        found = self.connection.sql(
            "SELECT query, place, text, split FROM asked ORDER BY place"
        ).to_arrow_table()
        _, row = _file_and_row(found["place"])
        queries = pd.DataFrame({"row": row})
        ids = pa.array([f"query-{key:016x}" for key in found["query"].to_pylist()], TEXT)
        queries["query_id"] = column_of([ids], TEXT, queries.index)
        names = {"query": "text"} | ({"split": "split"} if self.has_split else {})
        for name, column in names.items():
            queries[name] = column_of(found[column].cast(TEXT).chunks, TEXT, queries.index)
        return queries.assign(kind="clicks", image="", product_id="")

    def judgments(self, ids: pd.Series, files: Sequence[TableFile]) -> list[pd.DataFrame]:
        """Returns the judgments of each file in the order of their first events."""
        sums = self.connection.sql(SUMS).to_arrow_table()
        file, row = _file_and_row(sums["place"])
        pairs = pd.DataFrame({name: sums[name].to_numpy() for name in ("query", "weight", "shown")})
        qrels = pd.DataFrame(
            {
                "row": row,
                "query_id": pd.Categorical.from_codes(sums["query"].to_numpy(), ids),
                "product_id": pd.Categorical.from_codes(sums["product"].to_numpy(), self.products),
                "relevance": _relevance(pairs, self.rates),
                "file": pd.Categorical.from_codes(file, [each.name for each in files]),
            }
        )
        edges = np.searchsorted(file, np.arange(len(files) + 1))
        return [
            qrels.iloc[start:end].reset_index(drop=True) for start, end in pairwise(edges.tolist())
        ]


def _relevance(pairs: pd.DataFrame, rates: bool) -> pd.Series:
    """Returns the relevance of pairs with `query`, `weight` and `shown`; see `read_clicks`."""
    weight, shown = pairs["weight"], pairs["shown"]
    if rates:
        # Carts and purchases may come without the impression before them.
        shown = np.maximum(shown, (weight > 0).astype(float))
        floor = weight.sum() / max(shown.sum(), 1.0)
        score = (weight + PRIOR * floor) / (shown + PRIOR)
    else:
        score, floor = np.log2(1 + weight), np.log2(1 + ENOUGH)
    score = score.where(weight > 0, 0.0)
    best = score.groupby(pairs["query"]).transform("max").clip(lower=max(floor, 1e-12))
    return (HIGHEST * score / best).round(4)


def _file_and_row(
    place: pa.ChunkedArray | pa.Array,
) -> tuple[Int[np.ndarray, " events"], Int[np.ndarray, " events"]]:
    """Returns the number of the file and the row of each event."""
    places = place.to_numpy()
    return places >> ROW_BITS, places & (2**ROW_BITS - 1)


@lru_cache(maxsize=1024)
def _kind_of_event(name: str) -> str:
    """Returns the kind of an event of `EVENT_WEIGHTS`, or "" where the name is not known."""
    return KIND_OF_EVENT.get(re.sub(r"[\W_]+", "_", name.casefold()).strip("_"), "")
