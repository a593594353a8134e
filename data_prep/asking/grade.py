"""Grades the products of a split for a query, by the values of their fields."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache

import numpy as np
from jaxtyping import Float, Int, Int8, UInt64

from data_prep.asking.compose import Query
from data_prep.asking.details import Details
from data_prep.asking.schema import DETAILS, Rules
from data_prep.asking.values import EXACT, NEAR, OFF, UNKNOWN, Field, number_of

Rows = Int[np.ndarray, " rows"]

# Grade of a product that lacks a value which is asked.
UNJUDGED = -1.0
# Words of a field whose states are kept; those of a popular type are as many as it has groups.
KEPT = 1024


class Products:
    """The products of a split, grouped by the values of their fields.

    Products of equal values have equal grades, so a query is compared with each group once.

    Args:
        rules: say which grades there are.
        fields: of all products, by name.
        rows: numbers of the split's products.
        product_ids: of all products.
        details: of the products' texts; None where none are asked for.
        common: a type of more products is no reason for a grade alone.
    """

    def __init__(
        self,
        rules: Rules,
        fields: Mapping[str, Field],
        rows: Sequence[int],
        product_ids: Sequence[str],
        details: Details | None = None,
        common: int = sys.maxsize,
    ) -> None:
        self.rules = rules
        self.common = common
        self.details = details
        self.product_ids = product_ids
        # By row, so that a sample of many products is drawn without their ids.
        self.hashes = np.zeros(len(product_ids), dtype=np.uint64)
        self.hashes[rows] = [number_of(product_ids[row]) for row in rows]
        self.rank = np.zeros(len(product_ids), dtype=np.int64)
        self.rank[sorted(rows, key=product_ids.__getitem__)] = np.arange(len(rows))
        self.fields = fields
        self.column = {name: place for place, name in enumerate(fields)}
        columns = [field.codes for field in fields.values()]
        self.family = {}
        for name, field in fields.items():
            if field.family_codes is not None:
                self.family[name] = len(columns)
                columns.append(field.family_codes)
        whole = np.stack(columns, axis=1)[np.asarray(rows, dtype=np.int64)]
        self.groups, group, count = np.unique(
            whole, axis=0, return_inverse=True, return_counts=True
        )
        self.rows = np.asarray(rows, dtype=np.int64)[np.argsort(group.ravel(), kind="stable")]
        self.starts = np.concatenate([[0], np.cumsum(count)])
        self.required = next((name for name in fields if rules.fields[name].required), None)
        self.groups_of = cache(self._groups_of)
        self.states = lru_cache(maxsize=KEPT)(self._states)
        self.state = lru_cache(maxsize=KEPT)(lambda name, word: fields[name].state(word))

    def grades(self, query: Query) -> tuple[Int[np.ndarray, " some"], Float[np.ndarray, " some"]]:
        """Returns groups whose required fields agree, and the grade of each by its fields.

        That of one without a value that is asked is UNJUDGED. One that agrees in a type of too many
        products alone has 0.
        """
        broad = self.rules.mapped.broad if query.is_broad else ()
        is_common = self._asks_of_common(query)
        noun = dict(query.asked).get(self.required or "")
        groups = self.groups_of(noun)
        faults = np.zeros(len(groups), dtype=np.int64)
        grade = np.full(len(groups), self.rules.exact)
        keep = np.ones(len(groups), dtype=bool)
        unknown = np.zeros(len(groups), dtype=bool)
        for name, word in query.asked:
            if name in DETAILS:
                continue
            state = self.states(name, word, noun)
            if name in broad:
                state = np.where(state == NEAR, np.int8(EXACT), state)
            field = self.rules.fields[name]
            if field.required:
                keep &= state == EXACT
            unknown |= state == UNKNOWN
            faults += state != EXACT
            grade = np.where(state == NEAR, field.near, grade)
            grade = np.where(state == OFF, 0.0 if is_common else field.other, grade)
        grade[faults > 1] = 0.0
        grade[unknown] = UNJUDGED
        return groups[keep], grade[keep]

    def _asks_of_common(self, query: Query) -> bool:
        """Says whether a query asks for one thing alone of a type of more than `common` products.

        Else a shop of one type would have each product judged for each query.
        """
        fields = self.rules.fields
        if sum(name in DETAILS or not fields[name].required for name, _ in query.asked) != 1:
            return False
        groups = self.groups_of(dict(query.asked).get(self.required or ""))
        return int((self.starts[groups + 1] - self.starts[groups]).sum()) > self.common

    def _groups_of(self, noun: str | None) -> Int[np.ndarray, " some"]:
        """Returns the groups that agree with a word in the first required field, if it is asked."""
        if noun is None or self.required is None:
            return np.arange(len(self.groups))
        state = self.state(self.required, noun)
        return np.flatnonzero(state[self.groups[:, self.column[self.required]]] == EXACT)

    def _states(self, name: str, word: str, noun: str | None) -> Int8[np.ndarray, " some"]:
        """Says of each group of a noun whether it is EXACT, NEAR, OFF or UNKNOWN in a field."""
        groups = self.groups_of(noun)
        state = self.state(name, word)[self.groups[groups, self.column[name]]]
        if name in self.family:
            families = self.groups[groups, self.family[name]]
            is_near = np.isin(families, self.fields[name].near_families(word)) & (families >= 0)
            state = np.where((state == OFF) & is_near, np.int8(NEAR), state)
        return state

    def rows_of(self, groups: Int[np.ndarray, " some"]) -> Rows:
        """Returns the numbers of the products of some groups."""
        parts = [self.rows[self.starts[group] : self.starts[group + 1]] for group in groups]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)

    def judgments(
        self, query: Query, identity: str, most: int, negatives: int
    ) -> Iterator[tuple[str, float]]:
        """Yields product ids and grades, the highest grade first.

        Of each grade above 0 at most `most` products, of grade 0 `negatives` whose required fields
        agree; which ones is drawn by the hash of the query's id and the product's.
        """
        groups, grade = self.grades(query)
        words = [word for name, word in query.asked if name in DETAILS]
        by_grade = {value: self.rows_of(groups[grade == value])
                    for value in sorted(set(grade.tolist()) - {UNJUDGED}, reverse=True)
                    if value > 0 or negatives}  # fmt: skip
        if words:
            other = 0.0 if self._asks_of_common(query) else self.rules.details.other
            by_grade = self._by_details(words, by_grade, other, bool(negatives))
        for value, rows in by_grade.items():
            wanted = most if value > 0 else negatives
            if len(rows) > wanted:
                places = mixed(self.hashes[rows] ^ np.uint64(number_of(identity)))
                rows = rows[np.argsort(places, kind="stable")[:wanted]]
            # In the order of ids, which are compared once.
            for row in rows[np.argsort(self.rank[rows])].tolist():
                yield self.product_ids[row], value

    def _by_details(
        self, words: Sequence[str], by_grade: Mapping[float, Rows], other: float, with_zero: bool
    ) -> dict[float, Rows]:
        """Returns the products of each grade by the details of their texts too.

        One that lacks a detail differs in one thing more, and has the grade `other` where that is
        all. One without a text is not judged.
        """
        assert self.details is not None
        rows = np.concatenate([*by_grade.values(), self.rows[:0]])
        grade = np.repeat(np.asarray([*by_grade], float), [len(each) for each in by_grade.values()])
        told = self.details.tells(rows)
        rows, grade = rows[told], grade[told]
        lacks = np.zeros(len(rows), dtype=np.int64)
        for word in words:
            lacks += ~self.details.has(word, rows)
        one_off = np.where(grade == self.rules.exact, other, 0.0)
        grade = np.where(lacks == 0, grade, np.where(lacks == 1, one_off, 0.0))
        values = sorted(set(grade.tolist()), reverse=True)
        return {value: rows[grade == value] for value in values if value > 0 or with_zero}


def mixed(numbers: UInt64[np.ndarray, " some"]) -> UInt64[np.ndarray, " some"]:
    """Mixes the bits of numbers, as the last step of SplitMix64 does (Steele et al., 2014)."""
    with np.errstate(over="ignore"):
        numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
