"""Says on which queries one run beats another, such as a learned fusion the plain sum.

    python -m tests.benchmarks.fusion_pays runs/fusion/sum runs/fusion/attended \
        --shards runs/shards --fields attributes.csv --out runs/pays

RUN is a finished run, or OUT/ROW of an ablation that was written into OUT (its runs.csv says which
runs are the row's), whose seeds are averaged. Both were measured on the same queries. It prints
differences of nDCG@10, B less A, for every kind of query, and with `--fields` (product_id and a
column a field, as `beyond_text.tag` writes them) for the queries that name a value of a field, and
for each such value; intervals and p are over needs. OUT/pays.html shows the queries that gain and
lose most, with what either run finds for them: one file that loads nothing.
"""

from __future__ import annotations

import argparse
import base64
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from beyond_text.evaluation.compare import short_names
from beyond_text.evaluation.report import RUNS
from beyond_text.files import write_text
from beyond_text.metrics.ranking import Ranking, needs, per_query
from beyond_text.metrics.results import METRICS
from beyond_text.metrics.significance import compare_paired, in_words
from beyond_text.metrics.trec import read_trec
from beyond_text.retrieval.catalogue import Catalogue
from beyond_text.retrieval.query_set import QuerySet
from beyond_text.retrieval.read_split import read_split
from beyond_text.tables.delimited import fold
from beyond_text.tables.formats import read_file
from beyond_text.tables.layouts import Reject, TableFile
from beyond_text.tables.rejects import MAX_REJECTED, Rejects
from beyond_text.tables.text import normal_text
from beyond_text.terminal import errors_in_one_line, plain, table_row
from data_prep.asking.columns import OTHER_IDS
from data_prep.asking.parts import cell_text, parts_of

PAGE = Environment(
    loader=PackageLoader("tests.benchmarks", "."), autoescape=True, undefined=StrictUndefined
)
# Pixels a side of a picture on the page, and products that are shown of a ranking.
SIDE, TOP = 96, 6
ID_NAMES = frozenset(map(fold, ("product_id", *OTHER_IDS)))
JUDGED = ["query_id", "product_id", "relevance"]


class Side(NamedTuple):
    """One of the two that are compared: nDCG@10 of each query over its seeds, and a ranking."""

    name: str
    values: pd.Series
    ranking: Ranking
    qrels: pd.DataFrame
    kinds: pd.Series


class Row(NamedTuple):
    """Queries of one group, and the difference that the second run makes for them."""

    group: str
    queries: int
    needs: int
    a: float
    b: float
    difference: str
    sort: float


def runs_of(run: Path) -> list[Path]:
    """Returns a finished run, or the runs of a row of an ablation.

    Raises:
        FileNotFoundError: there is neither.
        ValueError: the row stands in several ladders, as at several numbers of labels.
    """
    if (run / METRICS).is_file():
        return [run]
    listed = run.parent / RUNS
    if listed.is_file():
        table = pd.read_csv(listed, dtype=str, keep_default_na=False)
        table = table[table["name"] == run.name]
        if len(ladders := table["ladder"].unique()) > 1:
            named = ", ".join(ladders)
            raise ValueError(f"{run}: a row of several ladders of {listed} ({named}): name a run")
        if seeds := [run.parent / path for path in table["run"]]:
            return seeds
    raise FileNotFoundError(f"{run}: no finished run, and no row of {listed}")


def read_side(run: Path, name: str) -> Side:
    """Reads what a run, or each seed of a row, found for the queries that it was measured on."""
    read = [read_trec(each) for each in runs_of(run)]
    values = pd.concat([per_query(*each) for each in read], axis=1)
    if values.isna().any(axis=None):
        raise ValueError(f"{run}: its seeds were measured on different queries")
    kinds = read[0].queries.set_index("query_id")["kind"]
    return Side(name, values.mean(axis=1), read[0].ranking, read[0].qrels, kinds)


def words_of(fields: Path) -> dict[str, list[str]]:
    """Returns the values of each field of a table, in one case; a cell may list several.

    Raises:
        ValueError: the table cannot be read, or has no product_id.
    """
    rejects: list[Reject] = []
    tables = list(read_file(fields, (), "", rejects, others=True))
    rows = sum(table.rows for table in tables)
    Rejects(rejects, [TableFile(fields.name, rows, 0)], MAX_REJECTED).check()
    table = pd.concat([table.frame for table in tables], ignore_index=True).drop(columns="row")
    ids = [name for name in table if fold(name) in ID_NAMES]
    if not ids or len(table.columns) < 2:
        got = ", ".join(map(str, table.columns)) or "none"
        raise ValueError(f"{fields}: expected product_id and a column a field, got {got}")
    return {
        str(name): sorted(
            {normal_text(v) for cell in set(table[name]) for v in parts_of(cell_text(str(cell)))}
        )
        for name in table.columns.drop(ids)
    }


def spoken(text: str) -> str:
    """Returns the words of a text, in one case and without marks between them."""
    return " ".join(re.findall(r"\w+", normal_text(text)))


def groups_of(
    queries: pd.DataFrame, kinds: pd.Series, words: dict[str, list[str]]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields groups of queries by name: all, each kind, and by the fields' values in their words.

    A query names a value where its words hold the value's words in a row.
    """
    yield "all", np.ones(len(queries), bool)
    yield from ((f"kind {kind}", (kinds == kind).to_numpy()) for kind in sorted(kinds.unique()))
    texts = [f" {spoken(text)} " for text in queries["query"]]
    for field, values in words.items():
        named = {
            value: np.array([f" {said} " in text for text in texts], bool)
            for value in values
            if (said := spoken(value))
        }
        some = np.logical_or.reduce([*named.values(), np.zeros(len(texts), bool)])
        yield f"names a {field}", some
        yield f"names no {field}", ~some
        yield from ((f"{field}: {value}", part) for value, part in named.items())


def differences(
    a: Side, b: Side, queries: pd.DataFrame, words: dict[str, list[str]], least: int
) -> list[Row]:
    """Returns a row for every group of at least `least` needs; values of a field by their gain."""
    first, second = a.values.to_numpy(), b.values.to_numpy()
    need = needs(a.values.index, a.qrels)
    rows = []
    for group, part in groups_of(queries, a.kinds[a.values.index], words):
        number = len(set(need[part]))
        if number < least and group != "all":
            continue
        paired = compare_paired(second[part], first[part], need[part])
        means = first[part].mean(), second[part].mean()
        of_value = ": " in group
        sort = -paired.difference if of_value else -np.inf
        rows.append(Row(group, int(part.sum()), number, *means, in_words(paired), sort))
    field = {row.group: row.group.partition(": ")[0] for row in rows}
    order = {name: number for number, name in enumerate(dict.fromkeys(field.values()))}
    return sorted(rows, key=lambda row: (order[field[row.group]], row.sort))


def markdown(a: Side, b: Side, rows: Sequence[Row]) -> str:
    """Returns the differences as a table."""
    heads = ["queries", "number", "needs", a.name, b.name, f"{b.name} less {a.name}"]
    lines = [table_row(heads), "|---|--:|--:|--:|--:|---|"]
    lines += [
        table_row(
            [r.group, f"{r.queries}", f"{r.needs}", f"{r.a:.3f}", f"{r.b:.3f}", str(r.difference)]
        )
        for r in rows
    ]
    note = (
        "nDCG@10; brackets: 95 % bootstrap interval over needs (queries judged alike), p of a "
        "sign-flip permutation test, not corrected for the number of rows."
    )
    return "\n".join([*lines, "", note, ""])


def picture_of(picture: Tensor | None) -> str:
    """Returns a small picture as a data URL; "" where there is none."""
    if picture is None:
        return ""
    image = to_pil_image(picture)
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=70)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


class Extreme(NamedTuple):
    """A query on the page: its words, its kind, and what each run finds for it."""

    query: str
    kind: str
    found: list[tuple[str, float, list[tuple[str, str, float]]]]


def extreme(query_id: str, text: str, a: Side, b: Side, catalogue: Catalogue) -> Extreme:
    """Returns what both runs find for a query: picture, text and grade of the best products."""
    judged = a.qrels[a.qrels["query_id"] == query_id].set_index("product_id")["relevance"]
    found = []
    for side in (a, b):
        place = side.ranking.query_ids.index(query_id)
        products = []
        for product_id in side.ranking.product_ids[place][:TOP]:
            sample = catalogue.products[catalogue.positions[product_id]]
            grade = float(judged.get(product_id, 0.0))
            products.append((picture_of(sample.image), sample.text, grade))
        found.append((side.name, float(side.values[query_id]), products))
    return Extreme(text or "(a picture)", str(a.kinds[query_id]), found)


def page(
    a: Side, b: Side, rows: Sequence[Row], catalogue: Catalogue, texts: pd.Series, number: int
) -> str:
    """Returns the page: the table, and the `number` queries that gain and that lose most."""
    gain = (b.values - a.values).sort_values(kind="stable")
    chosen = {
        "gain": gain[gain > 0].index[::-1][:number],
        "lose": gain[gain < 0].index[:number],
    }
    shown = {
        name: [extreme(query_id, texts[query_id], a, b, catalogue) for query_id in ids]
        for name, ids in chosen.items()
    }
    return PAGE.get_template("fusion_pays.html").render(
        a=a.name, b=b.name, rows=rows, shown=shown, pool=catalogue.in_words
    )


def compare(
    runs: tuple[Path, Path],
    shards: Path,
    split: str,
    fields: Path | None,
    out: Path,
    least: int,
    number: int,
) -> str:
    """Writes OUT/pays.md and OUT/pays.html; returns the table.

    Raises:
        ValueError: the runs were measured on other queries than each other or than the split has.
    """
    a, b = map(read_side, runs, short_names([str(run) for run in runs]))
    catalogue, query_set = read_split(shards, split, ["title"], 2 * SIDE)
    check(a, b, catalogue, query_set, f"{shards}, split {split}")
    b = b._replace(values=b.values[a.values.index])
    texts = query_set.queries.set_index("query_id")["query"]
    queries = pd.DataFrame({"query": texts[a.values.index]})
    rows = differences(a, b, queries, words_of(fields) if fields else {}, least)
    table = markdown(a, b, rows)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "pays.md", table)
    write_text(out / "pays.html", page(a, b, rows, catalogue, texts, number))
    return table


def check(a: Side, b: Side, catalogue: Catalogue, query_set: QuerySet, where: str) -> None:
    """Raises a ValueError where the two were not measured alike, or not on what is there now.

    Compared are queries, judgments, and the products that are shown.
    """
    known = set(query_set.queries["query_id"])
    for side in (a, b):
        if differing := set(side.values.index) ^ set(a.values.index):
            raise ValueError(f"{side.name}: measured on other queries, such as {min(differing)}")
        if missing := set(side.values.index) - known:
            raise ValueError(f"{side.name}: query {min(missing)} is not in {where}")
        found = {product for row in side.ranking.product_ids for product in row[:TOP]}
        if gone := found - catalogue.positions.keys():
            raise ValueError(f"{side.name}: product {min(gone)} is not in {where}")
    one, other = ({tuple(row) for row in side.qrels[JUDGED].to_numpy()} for side in (a, b))
    if differing := one ^ other:
        raise ValueError(f"{b.name}: judged otherwise, such as query {min(differing)[0]}")


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs=2, type=Path, metavar="RUN")
    parser.add_argument("--shards", type=Path, required=True, help="what both were measured on")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--fields", type=Path, help="product_id and a column a field")
    parser.add_argument("--out", type=Path, default=Path("runs/pays"))
    parser.add_argument("--least", type=int, default=5, help="needs that a group has at least")
    parser.add_argument("--queries", type=int, default=12, help="that gain, and that lose, most")
    given = parser.parse_args(argv)
    with errors_in_one_line():
        table = compare(
            tuple(given.runs), given.shards, given.split, given.fields, given.out, given.least,
            given.queries,
        )  # fmt: skip
        print("\n".join(map(plain, table.splitlines())))


if __name__ == "__main__":
    main()
