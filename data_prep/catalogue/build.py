"""Writes the built-in catalogue as a folder of tables and pictures, completely or not at all.

The same arguments give the same bytes. A folder that this module did not make is never replaced.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from beyond_text.files import atomic_folder
from beyond_text.tasks.cores import cores
from data_prep.catalogue.lookups import COLUMNS, Article, make_articles, make_lookups
from data_prep.catalogue.products import Product, make_products
from data_prep.catalogue.queries import judge, make_queries
from data_prep.catalogue.scene import draw_product

MARK = "catalogue.json"


def build_catalogue(
    out: Path,
    products: int = 2400,
    seed: int = 0,
    size: int = 192,
    workers: int | None = None,
    lookups: bool = False,
) -> dict[str, int]:
    """Builds the catalogue in `out`; returns the counts that it also writes to catalogue.json.

    Pictures are `size` x `size` JPEG. `workers` processes draw (all cores by default). With
    `lookups` there are queries of kinds `sku` and `brand` too; all else is the same.

    Raises:
        FileExistsError: `out` exists and is not a catalogue made by this module.
        ValueError: `products` or `size` is out of range.
    """
    if not 16 <= size <= 2048:
        raise ValueError(f"size: expected 16 to 2048 pixels, got {size}")
    goods = make_products(products, seed)
    articles = make_articles(goods, seed)
    queries = make_queries(goods, seed)
    judgments = judge(queries, goods)
    asked = [(q.query_id, q.query, q.split, q.kind) for q in queries]
    facts = {"products": products, "seed": seed, "size": size, "queries": len(queries),
             "judgments": len(judgments)}  # fmt: skip
    if lookups:
        named = make_lookups(goods, articles, seed)
        asked += [(q.query_id, q.query, q.split, q.kind) for q in named]
        judgments += [(q.query_id, p, grade) for q in named for p, grade in q.grades.items()]
        facts["lookups"] = len(named)
    with atomic_folder(out, _is_catalogue) as folder:
        _write_products(folder, goods, articles)
        _write(folder / "queries.csv", ("query_id", "query", "split", "kind"), asked)
        _write(folder / "qrels.csv", ("query_id", "product_id", "relevance"), judgments)
        _draw_all(folder, [p for p in goods if p.has_image], seed, size, workers)
        (folder / MARK).write_text(json.dumps(facts, indent=2) + "\n")
    return facts


def contact_sheet(
    path: Path, products: int, seed: int, columns: int = 11, rows: int = 5, tile: int = 96
) -> None:
    """Writes a PNG of `columns` x `rows` pictures: kinds in turn, colours and patterns mixed."""
    shelf: dict[str, list[Product]] = {}
    for product in make_products(products, seed):
        if product.has_image:
            shelf.setdefault(product.design.kind, []).append(product)
    gap = 3
    step = tile + gap
    sheet = Image.new("RGB", (columns * step + gap, rows * step + gap), "white")
    kinds = list(shelf)
    uses: Counter[str] = Counter()
    for cell in range(columns * rows):
        product = min(
            shelf[kinds[cell % len(kinds)]],
            key=lambda p: uses[p.colour] + uses[p.pattern] + uses[p.design.group_id],
        )
        uses.update((product.colour, product.pattern, product.design.group_id))
        picture = draw_product(product, seed, tile)
        row, column = divmod(cell, columns)
        sheet.paste(picture, (gap + column * step, gap + row * step))
    sheet.save(path, optimize=True)


def _draw_one(product: Product, folder: Path, seed: int, size: int) -> None:
    """Draws the picture of one product into the folder."""
    draw_product(product, seed, size).save(folder / product.image, quality=88)


def _draw_all(
    folder: Path, products: Sequence[Product], seed: int, size: int, workers: int | None
) -> None:
    """Draws the pictures of all products, in several processes."""
    for product in products:
        (folder / product.image).parent.mkdir(parents=True, exist_ok=True)
    draw = partial(_draw_one, folder=folder, seed=seed, size=size)
    workers = workers or cores()
    bar = partial(tqdm, total=len(products), desc="drawing", unit="picture")
    if workers == 1:
        for _ in bar(map(draw, products)):
            pass
        return
    # spawn: forking a process that already runs threads (torch, faiss) can deadlock.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for _ in bar(pool.map(draw, products, chunksize=16)):
            pass


def _write_products(folder: Path, goods: Sequence[Product], articles: Sequence[Article]) -> None:
    """Writes the table of products."""
    ours = ("product_id", "title", "description", "category", "image", "group_id", "split")
    rows = (
        (p.product_id, d.title, d.description, d.kind, p.image, d.group_id, d.split, *article)
        for p, article in zip(goods, articles, strict=True)
        for d in (p.design,)
    )
    _write(folder / "products.csv", (*ours, *COLUMNS), rows)


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Writes one table as CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _is_catalogue(folder: Path) -> bool:
    """Says whether a folder is a catalogue that this module made."""
    return (folder / MARK).is_file()
