"""Reads the rules by which queries are composed of fields and judged."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml
from msgspec import Struct
from msgspec.structs import replace

DEFAULT_RULES = Path(__file__).with_name("rules.yaml")
PLACE = re.compile(r"\{(\w+)\}")
BESIDE = re.compile(r"<(\w+)>")
# Places of details in forms, which are of the product's text and no fields.
DETAILS = ("detail", "second_detail")
WAYS = ("plural", "no_hyphen", "capitals", "typo")


class FieldRules(Struct, frozen=True, forbid_unknown_fields=True):
    """How one field is asked for, and what a product is worth that differs in it.

    Attributes:
        required: a product that differs in this field has grade 0; no query leaves it out.
        near: grade of a product that differs in this field alone, by a neighbouring value.
        other: grade of a product that differs in this field alone, by any other value.
        near_by: columns, of which the first that is there counts, in which neighbouring values are
            equal, such as a family of colours.
        same_last_word: values with one last word are neighbours, as light pink and pink are.
        neighbours: groups of values that are neighbours.
        words: value -> how shoppers call it; a value that is not here is called by its own name.
        first_words: value -> how they call it where it begins the query.
        covers: value -> further values that it agrees with, as unisex does with women.
        not_asked: patterns, such as `other*`, of values that nobody asks for.
    """

    required: bool = False
    near: float = 0
    other: float = 0
    near_by: list[str] = []
    same_last_word: bool = False
    neighbours: list[list[str]] = []
    words: dict[str, list[str]] = {}
    first_words: dict[str, list[str]] = {}
    covers: dict[str, list[str]] = {}
    not_asked: list[str] = []


class Ask(Struct, frozen=True, forbid_unknown_fields=True):
    """Forms of queries that ask for the same; `{field}` is asked, `<beside>` is only said.

    Attributes:
        forms: texts with places.
        weight: how often they are drawn.
        broad: graded as people's queries are: neighbours in the fields `mapped.broad` agree.
    """

    forms: list[str]
    weight: float = 1.0
    broad: bool = False

    @property
    def places(self) -> tuple[str, ...]:
        """The fields and details asked for, by name."""
        return tuple(sorted(set(PLACE.findall(self.forms[0]))))

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields asked for, by name."""
        return tuple(name for name in self.places if name not in DETAILS)

    @property
    def details(self) -> int:
        """How many details of the text are asked for."""
        return len(self.places) - len(self.fields)


class BesideRules(Struct, frozen=True, forbid_unknown_fields=True):
    """Words that people say besides, which no field or text decides: they change no grade.

    Attributes:
        words: one is drawn.
        needs: said only in a shop that has these fields, as an audience in one of clothes.
        unless: not said in a shop that has one of these fields, which would decide it.
    """

    words: list[str]
    needs: list[str] = []
    unless: list[str] = []


class DetailRules(Struct, frozen=True, forbid_unknown_fields=True):
    """Which phrases of the products' texts are asked for, and how.

    Attributes:
        other: grade of a product whose text has not the detail that is asked, alone.
        least: so many texts of the shop have a phrase that is asked.
        most: share of the texts of a type above which a phrase tells nothing.
        longest: most words of a phrase.
        linked: share of its places in which a single word stands behind a link.
        links: words that lead to a detail, and by which it is asked for behind the product.
        anywhere: those of the links behind which every word counts: soft cotton is cotton.
        passed: words that may stand between a link and its detail.
        denied: words behind which stands what the product does not have.
        breaks: further words that end a phrase.
        never: words that no detail has.
        not_alone: words that are no detail alone.
        words: phrase -> how shoppers call it; such a phrase needs no link.
        first_words: phrase -> how they call it before the product, as in hooded jacket; one that
            is not in `words` is said nowhere else.
    """

    other: float = 0
    least: int = 5
    most: float = 0.5
    longest: int = 3
    linked: float = 0.2
    links: list[str] = []
    anywhere: list[str] = []
    passed: list[str] = []
    denied: list[str] = []
    breaks: list[str] = []
    never: list[str] = []
    not_alone: list[str] = []
    words: dict[str, list[str]] = {}
    first_words: dict[str, list[str]] = {}


class MappedRules(Struct, frozen=True, forbid_unknown_fields=True):
    """How queries that people have written are read.

    Attributes:
        fields: those that are looked for; of phrases of one length that of the first counts.
        needed: a query without one of these is left out.
        broad: fields in which a neighbouring value agrees too, as people say blue for navy.
        never: singular forms that mean something else, as short does.
        phrases: phrase -> field -> word, where no value of the shop is called so.
    """

    fields: list[str] = []
    needed: list[str] = []
    broad: list[str] = []
    never: list[str] = []
    phrases: dict[str, dict[str, str]] = {}


class Rules(Struct, frozen=True, forbid_unknown_fields=True):
    """The rules.

    Attributes:
        exact: grade of a product that agrees in all that is asked.
        fields: name -> rules.
        asks: what is asked for together, and in which forms.
        written: way of WAYS -> share of the queries, 0 to 1, that are written so.
        besides: name -> words of forms that are said and not asked.
        details: what is asked of the products' texts.
        missing: values that say nothing.
        mapped: how queries of people are read.
    """

    exact: float
    fields: dict[str, FieldRules]
    asks: list[Ask]
    written: dict[str, float] = {}
    besides: dict[str, BesideRules] = {}
    details: DetailRules = DetailRules()
    missing: list[str] = []
    mapped: MappedRules = MappedRules()

    @property
    def digest(self) -> str:
        """SHA-256 of the rules."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()

    def asks_of(self, attributes: Collection[str]) -> list[Ask]:
        """Lists what can be asked with these fields, in the forms that suit a shop with them."""
        said = {
            name
            for name, beside in self.besides.items()
            if set(beside.needs) <= set(attributes) and not set(beside.unless) & set(attributes)
        }
        found = []
        for ask in self.asks:
            forms = [form for form in ask.forms if set(BESIDE.findall(form)) <= said]
            if forms and set(ask.fields) <= set(attributes):
                found.append(replace(ask, forms=forms))
        return found


def read_rules(path: Path | None = None) -> Rules:
    """Reads the default rules, and lays those of a file over them: mappings merge, lists replace.

    Raises:
        ValueError: a file cannot be read, or says what rules cannot say.
    """
    content = _load(DEFAULT_RULES)
    if path is not None:
        content = _merged(content, _load(path))
    name = path or DEFAULT_RULES
    try:
        rules = msgspec.convert(content, Rules)
    except msgspec.ValidationError as error:
        raise ValueError(f"{name}: {error}") from error
    _check(name, rules)
    return rules


def _load(path: Path) -> dict[str, Any]:
    """Reads a mapping of YAML."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path}: expected rules in YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a mapping such as fields: ..., got {content!r:.80}")
    return content


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Lays one mapping over another."""
    both = {
        name: _merged(below[name], value)
        if isinstance(value, dict) and isinstance(below.get(name), dict)
        else value
        for name, value in above.items()
    }
    return {**below, **both}


def _check(path: Path, rules: Rules) -> None:
    """Raises ValueError where rules contradict each other."""
    for ask in rules.asks:
        _check_ask(path, rules, ask)
    for name, field in rules.fields.items():
        for grade in (field.near, field.other):
            _check_grade(f"{path}: fields.{name}", rules, grade)
        for table in (field.words, field.first_words):
            _check_words(f"{path}: fields.{name}", table)
    _check_details(path, rules)
    for name, beside in rules.besides.items():
        _check_words(f"{path}: besides", {name: beside.words})
        if unknown := {*beside.needs, *beside.unless} - set(rules.fields):
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
        if not ask.fields or tuple(sorted(names)) != ask.places:
            wanted = " ".join(f"{{{name}}}" for name in ask.places) or "{field}"
            raise ValueError(f"{path}: asks: expected {wanted}, each once, got {form!r}")
        if unknown := set(names) - set(rules.fields) - set(DETAILS):
            known = ", ".join((*rules.fields, *DETAILS))
            raise ValueError(f"{path}: asks: expected {known}, got {min(unknown)!r}")
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
    if empty := [key for key, words in table.items() if not all(words) or not words]:
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
