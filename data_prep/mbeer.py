"""Turns tables into pairs in M-BEER's layout: products of one design in different photos.

M-BEER (UniECS, arXiv 2508.13843) is not released; `beyond_text.tables.pairs` reads its file as it
reads ours. Ours adds `split`, so that a design is trained on or evaluated, never both. Pictures'
paths are relative to TABLES. The file is complete or absent; the same tables give the same bytes.

    python -m data_prep.mbeer TABLES OUT.jsonl
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from beyond_text.config.urls import path_of
from beyond_text.files import atomic_write
from beyond_text.tables.layouts import DEFAULT_LAYOUT, Layout, TableError
from beyond_text.tables.pictures import PictureError, digest_of
from beyond_text.tables.read import read_tables
from beyond_text.terminal import at_least, command_parser
from data_prep.adapters import ADAPTERS, layout_of


class Item(NamedTuple):
    """A product as pairs name it; two products of one `duplicate_key` are duplicates."""

    product_id: str
    title: str
    image: str
    category: str
    duplicate_key: str


class Design(NamedTuple):
    """Products of one group_id and one split, by product_id."""

    split: str
    items: list[Item]


class Counts(NamedTuple):
    """Counts of a split: designs with pairs, pairs, and pairs left out as duplicates."""

    designs: int
    pairs: int
    duplicates: int


def read_designs(
    folder: Path,
    layout: Layout = DEFAULT_LAYOUT,
    dev_share: float = 0.1,
    test_share: float = 0.0,
) -> tuple[list[Design], Counter[str]]:
    """Reads the designs of several products, by split and group_id, and counts what is left out.

    A product of several splits belongs to one that is not train, and a design with products in
    another split has none in train, so that nothing that is evaluated is trained on. A product
    whose picture is missing is paired by its title; one without a title too is left out. The shares
    are those of `read_tables`.

    Raises:
        TableError: the tables cannot be read.
    """
    tables = read_tables(folder, layout, dev_share, test_share=test_share)
    products = tables.products.assign(train=tables.products["split"] == "train")
    products = products.sort_values(["product_id", "train", "split"]).drop_duplicates("product_id")
    groups = products[products.duplicated(["split", "group_id"], keep=False)]
    held_out = groups["group_id"][~groups["train"]]
    in_both = groups["train"] & groups["group_id"].isin(held_out)
    groups = groups[~in_both]
    left_out = Counter(reject.reason for reject in tables.rejects)
    left_out["train product of a design that is evaluated"] = int(in_both.sum())
    designs = []
    with tqdm(total=len(groups), desc="hashing", unit="product", disable=None) as progress:
        for (split, _), group in groups.groupby(["split", "group_id"]):
            items = [_item(record, tables.pictures) for record in group.to_dict("records")]
            left_out["picture missing"] += sum(
                bool(path) > bool(item.image)
                for path, item in zip(group["image"], items, strict=True)
            )
            usable = [item for item in items if item.title or item.image]
            left_out["no title and no picture"] += len(items) - len(usable)
            designs.append(Design(str(split), usable))
            progress.update(len(items))
    return designs, +left_out


def _item(record: dict[Any, Any], folder: Path) -> Item:
    """Makes the item of a product; its image is "" where the picture cannot be read."""
    # Products without pictures are distinguished by their titles alone.
    image, duplicate_key = "", f"title {record['title']}"
    if record["image"]:
        with suppress(PictureError):
            duplicate_key = f"picture {digest_of(Path(record['image']))}"
            image = Path(record["image"]).relative_to(folder.resolve()).as_posix()
    return Item(record["product_id"], record["title"], image, record["category"], duplicate_key)


def pairs_of(items: list[Item], most: int) -> Iterator[tuple[Item, Item]]:
    """Yields each item with at most `most` others of its design, in both directions.

    The others are its nearest neighbours on a ring, duplicates included, so that all items are
    recalled equally often; an odd `most` counts as one less.
    """
    count = len(items)
    for number, trigger in enumerate(items):
        for step in range(1, count):
            if min(step, count - step) <= most // 2:
                yield trigger, items[(number + step) % count]


def write_pairs(designs: list[Design], out: Path, most: int = 8) -> dict[str, Counts]:
    """Writes the file of pairs, empty where there are none; returns the counts by split.

    Raises:
        OSError: the file cannot be written; the error names it, and an earlier file stays.
    """
    counts: dict[str, Counts] = {}
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(out) as file:
        for design in designs:
            pairs = list(pairs_of(design.items, most))
            distinct = [(one, two) for one, two in pairs if one.duplicate_key != two.duplicate_key]
            for one, two in distinct:
                file.write(json.dumps(_line(one, two, design.split), ensure_ascii=False) + "\n")
            of_design = Counts(bool(distinct), len(distinct), len(pairs) - len(distinct))
            before = counts.get(design.split, Counts(0, 0, 0))
            counts[design.split] = Counts(*map(sum, zip(before, of_design, strict=True)))
    return counts


def _line(one: Item, two: Item, split: str) -> dict[str, str]:
    """Makes the JSON of a pair."""
    fields = {
        f"item_{name}_{side}": value
        for side, item in enumerate((one, two), 1)
        for name, value in (("id", item.product_id), ("title", item.title), ("image", item.image))
    }
    return {**fields, "tag": one.category, "split": split}


def main(argv: list[str] | None = None) -> int:
    """Builds from the command line; prints the counts, or prints the error and returns 1."""
    parser = command_parser("data_prep.mbeer", __doc__)
    parser.add_argument("tables", type=path_of, help="folder of tables with group_id")
    parser.add_argument("out", type=path_of, help="JSONL file to make")
    parser.add_argument("--layout", choices=sorted(ADAPTERS), help="default: this project's own")
    parser.add_argument(
        "--max-per-design", type=at_least(2), default=8, help="most pairs a product starts"
    )
    parser.add_argument("--dev-share", type=float, default=0.1, help="as of the shards")
    parser.add_argument("--test-share", type=float, default=0.0, help="as of the shards")
    arguments = parser.parse_args(argv)
    try:
        shares = arguments.dev_share, arguments.test_share
        designs, left_out = read_designs(arguments.tables, layout_of(arguments.layout), *shares)
        counts = write_pairs(designs, arguments.out, arguments.max_per_design)
    except (TableError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for split, (with_pairs, pairs, duplicates) in counts.items():
        print(f"{split}: {with_pairs} designs, {pairs} pairs, {duplicates} left out as duplicates")
    print(f"left out: {', '.join(f'{n} {reason}' for reason, n in left_out.items()) or 'nothing'}")
    if not any(count.pairs for count in counts.values()):
        print(
            f"WARNING: no pairs: {arguments.out} is empty. Pairs need two products of one group_id "
            "and one split whose pictures differ.",
            file=sys.stderr,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
