"""Fills our columns from theirs, by templates such as `{brand} {name}`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter

from beyond_text.tables.cells import picture_cell, picture_names


@dataclass(frozen=True)
class Join:
    """Templates that are filled in and joined; empty ones are left out."""

    separator: str
    templates: tuple[str, ...]

    def combine(self, parts: Sequence[str]) -> str:
        """Combines the filled templates of a row."""
        return self.separator.join(filter(None, parts))


@dataclass(frozen=True)
class First:
    """Templates of which the first that is not empty counts; columns of others may be missing."""

    templates: tuple[str, ...]

    def combine(self, parts: Sequence[str]) -> str:
        """Combines the filled templates of a row."""
        return next(filter(None, parts), "")


@dataclass(frozen=True)
class Pictures:
    """Templates that name pictures, of which some columns may be missing.

    `commas` says that a value may hold several, parted by commas.
    """

    templates: tuple[str, ...]
    commas: bool = False

    def combine(self, parts: Sequence[str]) -> str:
        """Combines the filled templates of a row to a cell of pictures."""
        # A comma may be part of a URL, so one ends only before the next.
        names = [
            name
            for part in parts
            for each in (re.split(r",\s*(?=$|https?://|//)", part) if self.commas else [part])
            for name in (each.split(",") if self.commas and "://" not in each else [each])
        ]
        return picture_cell(picture for name in names for picture in picture_names(name))


@dataclass(frozen=True)
class Price:
    """Templates of which the first that is not empty counts, without its currency.

    `12.99 USD`, `$ 12.99` and `12,99 €` are 12.99; what is no such price stays as it is. Columns of
    others may be missing.
    """

    templates: tuple[str, ...]

    def combine(self, parts: Sequence[str]) -> str:
        """Combines the filled templates of a row."""
        value = next(filter(None, parts), "")
        found = PRICE.fullmatch(value)
        return found[1].replace(",", ".") if found else value


# A number, which ends in at most two decimals where a comma is its point; a currency beside it.
PRICE = re.compile(r"[^\W\d_]{0,3}[^\w\s.,-]?\s*([0-9]+(?:\.[0-9]+|,[0-9]{1,2})?)\s*[^\d]{0,4}")
Template = str | Join | First | Pictures | Price


def fields_of(template: Template) -> list[str]:
    """Lists the columns that a template names."""
    templates = (template,) if isinstance(template, str) else template.templates
    return [name for each in templates for _, name, _, _ in Formatter().parse(each) if name]


def present(template: Template, known: Mapping[str, object]) -> Template | None:
    """Returns the template without parts whose columns are missing; None where it needs them."""
    if isinstance(template, First | Pictures | Price):
        parts = tuple(each for each in template.templates if present(each, known))
        if not parts:
            return None
        commas = {"commas": template.commas} if isinstance(template, Pictures) else {}
        return type(template)(parts, **commas)
    return template if all(name in known for name in fields_of(template)) else None


def fill(template: Template, values: Mapping[str, Iterable[str]]) -> list[str]:
    """Fills in a template for every row; `values` holds its columns."""
    if not isinstance(template, str):
        columns = [fill(each, values) for each in template.templates]
        return [template.combine(parts) for parts in zip(*columns, strict=True)]
    names = list(dict.fromkeys(fields_of(template)))
    if template == f"{{{names[0]}}}":
        return list(values[names[0]])
    rows = zip(*(values[name] for name in names), strict=True)
    # A template of columns that are all empty says nothing.
    return [
        template.format(**dict(zip(names, row, strict=True))).strip() if any(row) else ""
        for row in rows
    ]
