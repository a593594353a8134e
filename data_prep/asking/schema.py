"""What rules may say: how fields are asked for, in which forms, and which grades products get."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection

import msgspec
from msgspec import Struct
from msgspec.structs import replace

PLACE = re.compile(r"\{(\w+)\}")
BESIDE = re.compile(r"<(\w+)>")
# A word, or a place of one that is only said; those of other scripts are a shop's own.
OWN_WORD = re.compile(r"[A-Za-z]")
# Place of a field that the rules do not name.
OTHER = "{other}"
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
        numbers: a value without letters is asked with the field's name, as in size 42; else nobody
            asks for it.
        holds: values that say that a product is what the field's name says, and it is asked for by
            that name, as organic.
        fails: values that say that it is not, which nobody asks for. Both count in a field that has
            no other values.
        people: values are names of people: `Tolkien, J. R. R.` is one.
        short: word -> what it is short for, as dk for dark; a full stop behind it says nothing.
        shares: `60% cotton` is cotton.
        parted_by: words and signs that part values beside `/ , ; |`, as in black & white.
        other_names: what shops call the column, the first that is there counts.
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
    numbers: bool = False
    holds: list[str] = []
    fails: list[str] = []
    people: bool = False
    short: dict[str, str] = {}
    shares: bool = False
    parted_by: list[str] = []
    other_names: list[str] = []


class Ask(Struct, frozen=True, forbid_unknown_fields=True):
    """Forms of queries that ask for the same; `{field}` is asked, `<beside>` is only said.

    Attributes:
        forms: texts with places.
        weight: how often they are drawn.
        broad: graded as people's queries are: neighbours in the fields `mapped.broad` agree.
        unless: drawn only for products that have none of these fields.
    """

    forms: list[str]
    weight: float = 1.0
    broad: bool = False
    unless: list[str] = []

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
        otherwise: the words of a shop that lacks a field of `needs`.
        decided: field -> words that are not said in a shop that has it, which decides them.
        clothes: whether a shop that sells no clothes, too, says `otherwise`.
    """

    words: list[str]
    needs: list[str] = []
    unless: list[str] = []
    otherwise: list[str] = []
    decided: dict[str, list[str]] = {}
    clothes: bool = False

    def said(self, attributes: Collection[str]) -> list[str]:
        """Lists the words that are said in a shop with these fields."""
        if set(self.unless) & set(attributes):
            return []
        words = self.words if set(self.needs) <= set(attributes) else self.otherwise
        decided = {each for name in attributes for each in self.decided.get(name, ())}
        return [word for word in words if word not in decided]


class OtherRules(Struct, frozen=True, forbid_unknown_fields=True):
    """How fields are asked for that the rules do not name, such as brand or size.

    Attributes:
        field: rules of each of them.
        asks: forms, with the place `{other}`.
    """

    field: FieldRules = FieldRules()
    asks: list[Ask] = []


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
        denied_whole: those of them that deny all up to a pause, or to a word of `denied_until`: not
            for outdoor use.
        denied_until: words that end such a denial.
        denied_on: words by which a denial goes on, as in without collar or hood.
        denied_behind: words before which stands what the product does not have, as not included.
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
    denied_whole: list[str] = []
    denied_until: list[str] = []
    denied_on: list[str] = []
    denied_behind: list[str] = []
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
        others: how fields are asked for that are not in `fields`.
        missing: values that say nothing.
        mapped: how queries of people are read.
    """

    exact: float
    fields: dict[str, FieldRules]
    asks: list[Ask]
    written: dict[str, float] = {}
    besides: dict[str, BesideRules] = {}
    details: DetailRules = DetailRules()
    others: OtherRules = OtherRules()
    missing: list[str] = []
    mapped: MappedRules = MappedRules()

    @property
    def digest(self) -> str:
        """SHA-256 of the rules."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()

    def asks_of(self, attributes: Collection[str]) -> list[Ask]:
        """Lists what can be asked with these fields, in the forms that suit a shop with them."""
        said = {name for name, beside in self.besides.items() if beside.said(attributes)}
        found = []
        for ask in self.asks:
            forms = [form for form in ask.forms if set(BESIDE.findall(form)) <= said]
            if forms and set(ask.fields) <= set(attributes):
                found.append(replace(ask, forms=forms))
        return found

    def with_fields(self, attributes: Collection[str]) -> Rules:
        """Returns the rules with fields and forms for each attribute that no form asks for."""
        known = {name for ask in self.asks for name in ask.fields}
        new = [name for name in attributes if name not in known]
        asks = []
        for name in new:
            place = f"{{{name}}}"
            for ask in self.others.asks:
                # A field of the rules that your forms leave out may stand in these already.
                found = [each.replace(OTHER, place) for each in ask.forms]
                forms = [each for each in found if each.count(place) == 1]
                asks += [replace(ask, forms=forms)] if forms else []
        fields = dict.fromkeys(new, self.others.field) | self.fields
        return replace(self, fields=fields, asks=[*self.asks, *asks])

    def without_clothes(self) -> Rules:
        """Returns the rules without what is said of clothes alone."""
        besides = {
            name: replace(beside, words=beside.otherwise) if beside.clothes else beside
            for name, beside in self.besides.items()
        }
        return replace(self, besides=besides)

    def without_words(self) -> Rules:
        """Returns the rules with the forms alone that have no words of their own, if there are."""
        asks = [
            replace(ask, forms=forms)
            for ask in self.asks
            if (forms := [each for each in ask.forms if not OWN_WORD.search(PLACE.sub("", each))])
        ]
        return replace(self, asks=asks or self.asks)
