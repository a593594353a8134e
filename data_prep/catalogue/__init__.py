"""The built-in catalogue: home decor drawn and described by a seeded program.

It gives a fresh machine something to learn from: about 2,400 products of twenty kinds whose text
names kind, brand and use and whose picture alone shows colour and pattern, with queries that ask
for both and judgments known by construction.
"""

from __future__ import annotations

from data_prep.catalogue.build import build_catalogue, contact_sheet
from data_prep.catalogue.lookups import make_articles, make_lookups
from data_prep.catalogue.products import make_products
from data_prep.catalogue.queries import grade, judge, make_queries
from data_prep.catalogue.scene import draw_product

__all__ = [
    "build_catalogue",
    "contact_sheet",
    "draw_product",
    "grade",
    "judge",
    "make_articles",
    "make_lookups",
    "make_products",
    "make_queries",
]
