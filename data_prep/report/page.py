"""Fills in the page: one HTML file that loads nothing, with every value of the tables escaped."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from data_prep.report.facts import (
    count_grades,
    count_splits,
    find_crossings,
    find_duplicates,
    group_rejects,
    judgments_a_query,
    share_rejected,
)
from data_prep.report.lengths import Lengths
from data_prep.report.sheet import Card
from data_prep.report.usable import Usable

# Judgments a query from here on stand in one bar.
MANY_JUDGMENTS = 20
PAGE = Environment(
    loader=PackageLoader("data_prep.report", "."),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def share(part: int, whole: int) -> str:
    """Writes a share in per cent, such as "12.5 %"; "" where there is no whole."""
    return f"{100 * part / whole:.1f} %" if whole else ""


PAGE.filters["grade"] = "{:g}".format
PAGE.filters["number"] = "{:,}".format
PAGE.globals["share"] = share


def render_page(
    name: str, usable: Usable, lengths: list[Lengths], unit: str, cards: list[Card]
) -> str:
    """Returns the page.

    Args:
        name: of the tables.
        usable: what the page counts.
        lengths: of products' texts and queries.
        unit: "tokens" or "words", in which `lengths` are counted.
        cards: products of the contact sheet.
    """
    facts: dict[str, Any] = {
        "splits": count_splits(usable),
        "rejects": group_rejects(usable),
        "files": share_rejected(usable),
        "judgments": {
            split: _spread(counts) for split, counts in judgments_a_query(usable).items()
        },
        "grades": count_grades(usable),
        "duplicates": find_duplicates(usable),
        "crossings": find_crossings(usable),
    }
    notes = find_notes(facts, lengths, unit)
    template = PAGE.get_template("page.html")
    return template.render(name=name, notes=notes, lengths=lengths, unit=unit, cards=cards, **facts)


def _spread(counts: list[int]) -> dict[str, Any]:
    """Sums up the judgments a query of a split; the last bar also holds what is more."""
    bars = [0] * (min(max(counts), MANY_JUDGMENTS) + 1)
    for count in counts:
        bars[min(count, MANY_JUDGMENTS)] += 1
    middle = sorted(counts)[len(counts) // 2]
    mean = sum(counts) / len(counts)
    return {"least": min(counts), "median": middle, "mean": mean, "most": max(counts), "bars": bars}


def find_notes(facts: dict[str, Any], lengths: list[Lengths], unit: str) -> list[str]:
    """Says in sentences what to look at before training."""
    notes = [
        f"{file.file}: {file.rejected:,} of {file.rows:,} rows are rejected; shards are not made."
        for file in facts["files"]
        if file.stops
    ]
    splits = {counts.split: counts for counts in facts["splits"]}
    if not any(counts.products for counts in splits.values()):
        notes.append("No product is left.")
    notes += [
        f"There is nothing to {use}: no query of {split} has a judgment."
        for split, use in (("train", "learn from queries"), ("dev", "measure"))
        if split not in splits or not splits[split].judged_queries
    ]
    notes += [
        f"{row.rows:,} of {row.of:,} {row.kind} of {row.second} stand in {row.first} too."
        for row in facts["crossings"]
        if row.rows
    ]
    notes += [
        f"{each.rows:,} of {each.of:,} {each.rows_are} have the {each.equal} of another."
        for each in facts["duplicates"]
        if each.rows
    ]
    notes += [
        f"{each.cut:,} of {each.texts:,} {each.kind} are cut: more than {each.limit} {unit}."
        for each in lengths
        if each.cut
    ]
    return notes
