"""Tags products: with words that their texts name, else with what the model sees in the picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import regex
from jaxtyping import Float
from torch.utils.data import Dataset

from beyond_text.retrieval.catalogue import Catalogue
from beyond_text.retrieval.described import Described
from beyond_text.retrieval.encode import Encoder, Vectors, encode_products, encode_samples
from beyond_text.shards.batch import Sample
from beyond_text.tagging.scores import choose, debiased, surest
from beyond_text.tagging.words import ANY_TYPE, PRODUCT_TYPE, Field, folded_words

# Prompts are made for as many types of products as this, the most frequent ones; others share one.
MOST_TYPES = 60
# What parts the steps of a category, such as `Women > Dresses`.
STEPS = regex.compile(r"\s*[>|\u00bb\u203a\u2192]\s*|\s+/\s+")
BRACKETS = regex.compile(r"(?<=\S)\s*[(\[].*$|^[(\[][^)\]]*[)\]]")
# Steps that name no type.
NO_TYPE = frozenset(("n/a", "nan", "none", "null", "unknown", "other", "misc", "uncategorized"))


class Count(NamedTuple):
    """How many products have a field's word by their text and by their picture; and of how many."""

    by_text: int
    by_picture: int
    products: int


class Tagged(NamedTuple):
    """A row for each product: product_id, a column for each field, product_type; "" where unknown.

    `confidence` holds, for each field, how sure each picture's word is: nan where none was asked.
    """

    table: pd.DataFrame
    counts: dict[str, Count]
    confidence: dict[str, Float[np.ndarray, " products"]]


def tag_products(
    encoder: Encoder,
    catalogue: Catalogue,
    fields: Sequence[Field],
    least: float,
    top_share: float = 1.0,
) -> Tagged:
    """Tags a catalogue's products.

    A word that the title names, or else the whole text, is taken as it is. Where there are several,
    the picture chooses among them; where there is none, among all words. What it says counts where
    it is at least so sure (`least`, 0 to 1) and in the surest `top_share` of the pictures.
    """
    products: Any = catalogue.products
    described = [products.describe(number) for number in range(len(catalogue.product_ids))]
    types = [type_of(each.columns.get("category", "")) for each in described]
    pictures = encode_products(encoder, catalogue, ("image",))["image"]
    position = {product_id: n for n, product_id in enumerate(catalogue.product_ids)}
    rows = np.array([position[product_id] for product_id in pictures.ids], dtype=np.int64)
    columns: dict[str, list[str]] = {"product_id": list(catalogue.product_ids)}
    counts, confidence = {}, {}
    for field in fields:
        named = [_named(field, each) for each in described]
        values = [list(field.words)[n[0]] if len(n) == 1 else "" for n in named]
        by_text = sum(map(bool, values))
        sure = np.full(len(values), np.nan)
        if len(rows):
            scores = _scores(encoder, field, [types[row] for row in rows], pictures)
            chosen = choose(debiased(scores), [named[row] for row in rows])
            asked = np.array([not values[row] for row in rows])
            sure[rows[asked]] = chosen.confidence[asked]
            kept = np.flatnonzero(asked)[surest(chosen.confidence[asked], least, top_share)]
            for place in kept:
                values[rows[place]] = list(field.words)[chosen.word[place]]
        columns[field.name] = values
        counts[field.name] = Count(by_text, sum(map(bool, values)) - by_text, len(values))
        confidence[field.name] = sure
    columns[PRODUCT_TYPE] = types_of(types, described)
    return Tagged(pd.DataFrame(columns, dtype=object), counts, confidence)


def type_of(category: str) -> str:
    """Returns the type of a product: the last step of its category, without what is in brackets.

    It is "" where no step has a letter, or the last one says nothing.
    """
    steps = (" ".join(BRACKETS.sub("", each).lower().split()) for each in STEPS.split(category))
    last = [each for each in steps if any(map(str.isalpha, each))][-1:]
    return "" if not last or last[0] in NO_TYPE else last[0]


def types_of(types: Sequence[str], described: Sequence[Described]) -> list[str]:
    """Returns the types; a product without one has the longest that its title names, of others'."""
    known = {folded_words(name): name for name in sorted(set(types) - {""})}
    longest = max((len(form.split()) for form in known), default=0)
    found = []
    for name, each in zip(types, described, strict=True):
        words = [] if name else folded_words(each.columns.get("title", "")).split()
        runs = (
            " ".join(words[start : start + size])
            for size in range(1, longest + 1)
            for start in range(len(words) - size + 1)
        )
        named = max((run for run in runs if run in known), key=len, default="")
        found.append(name or known.get(named, ""))
    return found


def _named(field: Field, product: Described) -> list[int]:
    """Returns the words of a field that a product's title names, or else its text."""
    return field.named_in(product.columns.get("title", "")) or field.named_in(product.text)


def _scores(
    encoder: Encoder, field: Field, types: Sequence[str], pictures: Vectors
) -> Float[np.ndarray, "pictures words"]:
    """Returns the cosine of each picture with the mean of each word's prompts for its type."""
    frequent = [name for name, _ in Counter(filter(None, types)).most_common(MOST_TYPES)]
    kinds = [ANY_TYPE, *frequent] if field.uses_category else [ANY_TYPE]
    vectors = _word_vectors(encoder, field, kinds)
    scores = np.zeros((len(types), len(field.words)), dtype=np.float32)
    own = np.array([name if name in vectors else ANY_TYPE for name in types])
    for name in set(own.tolist()):
        scores[own == name] = pictures.vectors[own == name] @ vectors[name].T
    return scores


def _word_vectors(
    encoder: Encoder, field: Field, types: Sequence[str]
) -> Mapping[str, Float[np.ndarray, "words dim"]]:
    """Returns the unit mean of the prompts of each word, for each type; encodes each text once."""
    prompts = {name: [field.prompts_of(word, name) for word in field.words] for name in types}
    texts = list(dict.fromkeys(text for each in prompts.values() for own in each for text in own))
    # Texts of like length stand together, so that little of a batch is padding.
    texts.sort(key=len)
    vectors = encode_samples(encoder, Texts(texts), texts, ("text",), batch_size=256)["text"]
    row = {text: number for number, text in enumerate(vectors.ids)}
    return {
        name: np.stack([_unit_mean(vectors.vectors[[row[t] for t in own]]) for own in each])
        for name, each in prompts.items()
    }


def _unit_mean(vectors: Float[np.ndarray, "prompts dim"]) -> Float[np.ndarray, " dim"]:
    mean = vectors.mean(axis=0)
    return mean / max(float(np.linalg.norm(mean)), 1e-12)


class Texts(Dataset[Sample]):
    """Yields texts, in order, as products that have nothing else."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts

    def __getitem__(self, number: int) -> Sample:
        """Returns the number-th text."""
        return Sample(str(number), self.texts[number], None, [], None)
