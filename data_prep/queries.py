"""Makes shoppers' queries of a shop's structured fields, with graded judgments, as tables.

python -m data_prep.queries TABLES OUT --attributes colour,pattern,product_type,audience

OUT is a folder of tables that data_prep.shards packs as it is. Rules in YAML say what is asked, in
which words and forms, and which grade a product gets (data_prep/asking/rules.yaml). Details that
the product's own text names, such as long sleeves, are asked for too.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from beyond_text.config.urls import path_of
from beyond_text.files import atomic_folder, check_replaceable
from beyond_text.tables.layouts import DEFAULT_LAYOUT, Layout
from beyond_text.terminal import check_writable, command_parser, errors_in_one_line, plain, say
from data_prep.adapters import ADAPTERS, layout_of
from data_prep.asking.keys import key_of
from data_prep.asking.mapped import Mapped, Mapper, read_mapped
from data_prep.asking.rules import added_values, read_rules
from data_prep.asking.schema import Rules
from data_prep.asking.shop import (
    Shop,
    attributes_of,
    check_attributes,
    known_attributes,
    read_shop,
    write_fields,
    write_products,
)
from data_prep.asking.write import (
    MOST_JUDGMENTS,
    REJECTS,
    UNMAPPED,
    Draw,
    write_queries,
    write_rejects,
)

MADE = "made.json"
MADE_BY = "data_prep.queries"
DEFAULT_DRAW = Draw()


def make_queries(
    tables_path: Path,
    out: Path,
    attributes: Mapping[str, str],
    fields: Path | None = None,
    rules: Rules | None = None,
    layout: Layout = DEFAULT_LAYOUT,
    draw: Draw = DEFAULT_DRAW,
    map_path: Path | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Writes `out`: products, their fields apart, queries and judgments; returns the counts.

    A query of a split is composed of a product of that split, and judged for its products alone.

    Args:
        tables_path: what `read_tables` takes; only its products are read.
        out: folder to make; replaced if it is empty or an earlier one of this verb.
        attributes: our field -> the shop's column.
        fields: a file of fields with a column product_id; None for the products' own columns, and
            for a table `attributes` beside them where they lack one.
        rules: None for the default ones.
        layout: whose files the tables are.
        draw: how many queries and judgments.
        map_path: a file of queries that people have written, which are judged by the same rules.
        options: further arguments of `read_tables`: dev_share, test_share and pictures.

    Raises:
        ValueError: bad input; the message names the file, what was expected, and what stands there.
        OSError: `out` is something else, or cannot be written.
    """
    # People's queries may be all that is wanted.
    draw.check(least_per_product=int(map_path is None))
    rules = rules or read_rules()
    digest = rules.digest
    rules = rules.with_fields(attributes := known_attributes(attributes, rules))
    check_attributes(attributes, rules)
    check_replaceable(out, _is_made)
    check_writable(out)
    shop = read_shop(tables_path, layout, rules, attributes, fields, **options)
    _say_unmet(rules, shop)
    rules = _fitting(rules, shop)
    mapped = [] if map_path is None else _mapped(map_path, rules, shop)
    made: dict[str, Any] = {"made_by": MADE_BY, "rules": digest, **draw._asdict()}
    made |= {"attributes": dict(attributes), "unmapped": sum(each.query is None for each in mapped)}
    made["fields"] = {name: field.counts() for name, field in shop.fields.items()}
    with atomic_folder(out, _is_made) as folder:
        made["rejects"] = write_rejects(shop.rejects, folder)
        write_products(shop, out, folder)
        write_fields(shop, folder)
        made["splits"] = write_queries(shop, rules, draw, mapped, folder)
        _check_asked(made["splits"], shop, fields or tables_path)
        (folder / MADE).write_text(json.dumps(made, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return made


def _fitting(rules: Rules, shop: Shop) -> Rules:
    """Returns rules without English forms where a shop's fields are in another script.

    Of a shop that sells no clothes, they are without what is said of clothes.
    """
    rules = rules if shop.has_clothes else rules.without_clothes()
    if not shop.is_foreign:
        return rules
    say(
        "fields are in another script than English: no form of English words is drawn; --rules "
        "FILE lays forms of yours over them"
    )
    return rules.without_words()


def _say_unmet(rules: Rules, shop: Shop) -> None:
    """Prints the values that rules have beside the default ones and no product has."""
    for name, table, values in added_values(rules):
        if name not in shop.fields:
            continue
        known = {key_of(each): each for each in shop.fields[name].names_of_products}
        for value in values:
            if key_of(value) not in known:
                near = get_close_matches(key_of(value), known, 1)
                hint = f"; the nearest is {known[near[0]]!r}" if near else ""
                say(f"rules: fields.{name}.{table}: no product has {value!r}{hint}")


def _mapped(path: Path, rules: Rules, shop: Shop) -> list[Mapped]:
    """Reads people's queries; each split gets its share of them."""
    of_split = shop.tables.products["split"].value_counts().to_dict()
    return read_mapped(path, Mapper(rules, shop.fields), of_split, shop.rejects)


def _check_asked(splits: Mapping[str, Mapping[str, Any]], shop: Shop, file: Path) -> None:
    """Raises ValueError where no product of a shop has values that the rules ask for."""
    if not any(entry["queries"] for entry in splits.values()):
        values = {name: field.values[:3] for name, field in shop.fields.items()}
        raise ValueError(
            f"{file}: expected products with values of {', '.join(values)} "
            f"that the rules ask for, got none; their values begin {values}"
        )


def _said_of_field(name: str, entry: Mapping[str, Any]) -> str:
    """Says how many values a field has, who lacks one, and which ones nobody asks for."""
    text = f"{name}: {entry['values']} values of {entry['products']} products"
    if entry["without"]:
        text += f", {entry['without']} without one"
    if left := entry["not_asked"]:
        text += f"; not asked for: {', '.join(f'{each} ({n})' for each, n in left.items())}"
        text += f" and {more} more values" if (more := entry["more_not_asked"]) else ""
    if entry["neighbours_by"]:
        text += f"; neighbours by {entry['neighbours_by']}"
    if entry["values"] == 1:
        return f"{text}; with one value it tells no products apart"
    if entry["products"] >= 20 and entry["values"] > 0.9 * entry["products"]:
        return f"{text}; nearly every product has its own, so a query finds one"
    return text


def _is_made(folder: Path) -> bool:
    """Says whether a folder is one that this verb has made."""
    try:
        content = json.loads((folder / MADE).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("made_by") == MADE_BY


def _parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    parser = command_parser("data_prep.queries", __doc__)
    parser.add_argument("tables", type=path_of, help="folder of tables, or file of products")
    parser.add_argument("out", type=path_of, help="folder of tables to make")
    parser.add_argument(
        "--attributes",
        required=True,
        metavar="NAMES",
        help="fields to ask for; colour=COLUMN where the shop's column has another name",
    )
    parser.add_argument(
        "--fields",
        type=Path,
        help="file of product_id and fields, default: the products, or TABLES/attributes.csv",
    )
    parser.add_argument("--rules", type=Path, help="YAML that is laid over the default rules")
    parser.add_argument("--layout", choices=sorted(ADAPTERS), help="default: this project's own")
    parser.add_argument("--per-product", type=int, default=4, help="queries drawn for a product")
    parser.add_argument("--queries", type=int, help="most composed ones of a split, default: all")
    parser.add_argument(
        "--judgments", type=int, default=MOST_JUDGMENTS, help="most of a train query and grade"
    )
    parser.add_argument("--negatives", type=int, default=0, help="judgments of 0 of a train query")
    parser.add_argument("--map", type=Path, dest="map_path", metavar="QUERIES",
                        help="file of people's queries, to judge by the same rules")  # fmt: skip
    parser.add_argument("--fine-kinds", action="store_true", help="kinds name the fields asked")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--absent-pictures", action="store_true",
                        help="pictures that are URLs or missing are no rejects")  # fmt: skip
    parser.add_argument("--dev-share", type=float, default=0.1)
    parser.add_argument("--test-share", type=float, default=0.0)
    parser.add_argument("--pictures", type=Path, help="folder of the pictures, default: TABLES")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Makes queries from the command line; prints the counts."""
    arguments = vars(_parser().parse_args(argv))
    with errors_in_one_line():
        layout = layout_of(arguments["layout"])
        if arguments.pop("absent_pictures"):
            layout = replace(layout, absent_pictures=True)
        arguments["layout"] = layout
        arguments["rules"] = read_rules(arguments["rules"])
        arguments["attributes"] = attributes_of(arguments["attributes"])
        tables_path, out = arguments.pop("tables"), arguments.pop("out")
        draw = Draw(**{name: arguments.pop(name) for name in Draw._fields})
        made = make_queries(tables_path, out, draw=draw, **arguments)
    for name, entry in made["fields"].items():
        print(plain(_said_of_field(name, entry)))
    for split, entry in made["splits"].items():
        kinds = {**entry["asked"], **{f"people's {k}": n for k, n in entry["mapped"].items()}}
        asked = ", ".join(f"{number} of {name}" for name, number in kinds.items())
        grades = ", ".join(f"{number} of {grade}" for grade, number in entry["judgments"].items())
        print(f"{split}: {entry['products']} products, {entry['queries']} queries ({asked})")
        if entry["products_without_a_query"]:
            print(f"{split}: {entry['products_without_a_query']} products without a query")
        print(f"{split}: judgments: {grades}; {entry['at_limit']} queries at the limit of a grade")
    for reason, number in made["rejects"].items():
        say(f"{reason}: {number} rejected, listed in {out / REJECTS}")
    if made["unmapped"]:
        print(f"{made['unmapped']} queries of {arguments['map_path']} name no such field: "
              f"{out / UNMAPPED}")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
