"""Reads the rules by which queries are composed of fields and judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from beyond_text.config.mapping import read_mapping
from beyond_text.tables.layouts import HIGHEST_GRADE
from data_prep.asking.keys import key_of
from data_prep.asking.schema import (
    BESIDE,
    DETAILS,
    OTHER,
    PLACE,
    WAYS,
    Ask,
    FieldRules,
    Rules,
)

DEFAULT_RULES = Path(__file__).with_name("rules.yaml")
# What a file of rules begins with.
LIKE = "a mapping such as fields: ..."


def read_rules(path: Path | None = None) -> Rules:
    """Reads the default rules, and lays those of a file over them: mappings merge, lists replace.

    Raises:
        ValueError: a file cannot be read, or says what rules cannot say.
    """
    content: Mapping[str, Any] = _default()
    if path is not None:
        content = _merged(content, read_mapping(path, LIKE))
    name = path or DEFAULT_RULES
    try:
        rules = msgspec.convert(content, Rules)
    except msgspec.ValidationError as error:
        raise ValueError(f"{name}: {_fault(content, error)}") from error
    _check(name, rules)
    return rules


@cache
def _default() -> Mapping[str, Any]:
    """Reads the default rules, once: others are laid over them, and compared with them."""
    return read_mapping(DEFAULT_RULES, LIKE)


def added_values(rules: Rules) -> Iterator[tuple[str, str, list[str]]]:
    """Yields the values that rules name and the default ones do not: field, table, values."""
    default = read_rules()
    for name, field in rules.fields.items():
        before = default.fields.get(name, default.others.field)
        for table in ("words", "first_words", "covers"):
            known = {key_of(each) for each in getattr(before, table)}
            added = [each for each in getattr(field, table) if key_of(each) not in known]
            if added:
                yield name, table, added


def _fault(content: Mapping[str, Any], error: msgspec.ValidationError) -> str:
    """Says what is wrong with rules; the error of a field names it, and what it may have."""
    fields = content["fields"] if isinstance(content.get("fields"), dict) else {}
    for name, field in fields.items():
        try:
            msgspec.convert(field, FieldRules)
        except msgspec.ValidationError as found:
            known = ", ".join(each.name for each in msgspec.structs.fields(FieldRules))
            return f"fields.{name}: {found}; a field may have {known}"
    return str(error)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Lays one mapping over another; keys are one that differ as a shop's values may."""
    known = {key_of(name): name for name in below if isinstance(name, str)}
    both = {}
    for key, value in above.items():
        name = known.get(key_of(key), key) if isinstance(key, str) else key
        has_both = isinstance(value, dict) and isinstance(below.get(name), dict)
        both[name] = _merged(below[name], value) if has_both else value
    return {**below, **both}


def _check(path: Path, rules: Rules) -> None:
    """Raises ValueError where rules contradict each other."""
    # Shards take grades up to this.
    if not 0 < rules.exact <= HIGHEST_GRADE:
        raise ValueError(
            f"{path}: exact: expected a grade above 0, at most {HIGHEST_GRADE:g}, "
            f"got {rules.exact:g}"
        )
    whole = rules.with_fields([OTHER.strip("{}")])
    for ask in whole.asks:
        _check_ask(path, whole, ask)
    for name, field in whole.fields.items():
        for grade in (field.near, field.other):
            _check_grade(f"{path}: fields.{name}", rules, grade)
        for table in (field.words, field.first_words):
            _check_words(f"{path}: fields.{name}", table)
    _check_details(path, rules)
    for name, beside in rules.besides.items():
        _check_words(f"{path}: besides", {name: beside.words})
        if unknown := {*beside.needs, *beside.unless, *beside.decided} - set(rules.fields):
            known = ", ".join(rules.fields)
            raise ValueError(f"{path}: besides.{name}: expected {known}, got {min(unknown)!r}")
    _check_mapped(path, rules)
    unfit = [way for way, share in rules.written.items() if way not in WAYS or not 0 <= share <= 1]
    if unfit or sum(rules.written.values()) > 1:
        raise ValueError(
            f"{path}: written: expected shares from 0 to 1, together too, of {', '.join(WAYS)}, "
            f"got {rules.written}"
        )


def _check_ask(path: Path, rules: Rules, ask: Ask) -> None:
    """Raises ValueError where forms do not ask for the same, or for what the rules do not know."""
    if not ask.forms or not ask.weight > 0:
        raise ValueError(f"{path}: asks: expected forms and a weight above 0, got {ask}")
    for form in ask.forms:
        names = PLACE.findall(form)
        if set("{}") & set(PLACE.sub("", form)):
            raise ValueError(f"{path}: asks: expected places such as {{colour}}, got {form!r}")
        if not ask.fields or tuple(sorted(names)) != ask.places:
            wanted = " ".join(f"{{{name}}}" for name in ask.places) or "{field}"
            raise ValueError(f"{path}: asks: expected {wanted}, each once, got {form!r}")
        if unknown := set(names) - set(rules.fields) - set(DETAILS):
            known = ", ".join((*rules.fields, *DETAILS))
            raise ValueError(f"{path}: asks: expected {known}, got {min(unknown)!r}")
        if unknown := set(ask.unless) - set(rules.fields):
            known = ", ".join(rules.fields)
            raise ValueError(f"{path}: asks: unless: expected {known}, got {min(unknown)!r}")
        if unknown := set(BESIDE.findall(form)) - set(rules.besides):
            known = ", ".join(rules.besides) or "no <words> without besides"
            raise ValueError(f"{path}: asks: expected {known}, got {min(unknown)!r}")


def _check_grade(place: str, rules: Rules, grade: float) -> None:
    """Raises ValueError where a grade of a difference is out of range."""
    if not 0 <= grade < rules.exact:
        raise ValueError(
            f"{place}: expected grades from 0 to below exact, {rules.exact:g}, got {grade:g}"
        )


def _check_words(place: str, table: Mapping[str, list[str]]) -> None:
    """Raises ValueError where a table has no word for something."""
    if empty := [n for n, words in table.items() if not all(map(str.strip, words)) or not words]:
        raise ValueError(f"{place}: expected words for {empty[0]!r}, got ''")


def _check_details(path: Path, rules: Rules) -> None:
    """Raises ValueError where the rules of details are out of range."""
    details, place = rules.details, f"{path}: details"
    _check_grade(place, rules, details.other)
    for table in (details.words, details.first_words):
        _check_words(place, table)
    for name, number, low, high in (
        ("least", details.least, 1, float("inf")),
        ("longest", details.longest, 1, float("inf")),
        ("most", details.most, 0, 1),
        ("linked", details.linked, 0, 1),
    ):
        if not low <= number <= high:
            raise ValueError(f"{place}.{name}: expected {low:g} to {high:g}, got {number:g}")
    if unknown := set(details.anywhere) - set(details.links):
        known = ", ".join(details.links)
        raise ValueError(f"{place}.anywhere: expected {known}, got {min(unknown)!r}")


def _check_mapped(path: Path, rules: Rules) -> None:
    """Raises ValueError where the rules of people's queries name other fields."""
    looked = set(rules.mapped.fields)
    for key, names, known in (
        ("fields", looked, set(rules.fields)),
        ("needed", set(rules.mapped.needed), looked),
        ("broad", set(rules.mapped.broad), looked),
        ("phrases", {name for words in rules.mapped.phrases.values() for name in words}, looked),
    ):
        if unknown := names - known:
            raise ValueError(
                f"{path}: mapped.{key}: expected {', '.join(sorted(known))}, got {min(unknown)!r}"
            )
