"""Draws products for a contact sheet, with their pictures as data URIs."""

from __future__ import annotations

import random
from base64 import b64encode
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from beyond_text.tables.pictures import PictureError, read_picture, reduce_picture
from data_prep.report.usable import Usable

QUERIES = 3


class Card(NamedTuple):
    """A product as the sheet shows it; `picture` is a data URI or "".

    `queries` are those with the highest grades, each with its relevance.
    """

    product_id: str
    split: str
    title: str
    text: str
    picture: str
    queries: list[tuple[str, float]]


def draw_cards(usable: Usable, number: int, size: int, seed: int, max_pixels: int) -> list[Card]:
    """Draws products by a seed; the same tables and seed give the same ones.

    Args:
        usable: the tables.
        number: how many products, or all where there are fewer.
        size: longest side of a picture, in pixels.
        seed: of the draw.
        max_pixels: most pixels a picture's header may announce.
    """
    products = usable.products
    order = random.Random(seed).sample(range(len(products)), min(number, len(products)))
    cards = []
    for record in products.iloc[sorted(order)].to_dict("records"):
        picture = _first_picture(record["images"], size, max_pixels)
        identity, split = record["product_id"], record["split"]
        queries = _queries_of(usable, identity, split)
        cards.append(Card(identity, split, record["title"], record["text"], picture, queries))
    return cards


def _first_picture(paths: list[str], size: int, max_pixels: int) -> str:
    """Returns the first picture that can be read as a data URI, or ""."""
    for path in paths:
        with suppress(PictureError):
            data = reduce_picture(read_picture(Path(path)), size, max_pixels)
            return f"data:image/jpeg;base64,{b64encode(data).decode()}"
    return ""


def _queries_of(usable: Usable, product_id: str, split: str) -> list[tuple[str, float]]:
    """Lists the queries with the highest grades for a product."""
    qrels = usable.qrels
    of_product = qrels[(qrels["product_id"] == product_id) & (qrels["split"] == split)]
    best = of_product.sort_values("relevance", ascending=False, kind="stable").head(QUERIES)
    words: pd.Series = usable.queries.drop_duplicates("query_id").set_index("query_id")["text"]
    return [
        (words[query_id] or "a picture", float(relevance))
        for query_id, relevance in zip(best["query_id"], best["relevance"], strict=True)
    ]
