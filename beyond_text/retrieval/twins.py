"""Finds products that are another one in all but name: of one design, one text or one picture."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from jaxtyping import Int64
from tqdm import tqdm

from beyond_text.shards.archive import PICTURES
from beyond_text.shards.keys import key_of_bytes
from beyond_text.shards.split import Split
from beyond_text.tables.text import normal_text

Numbers = Int64[np.ndarray, " numbers"]
KINDS = ("group_id", "text", "picture")
# Returns numbers of pairs of an owner and a twin, for pairs of an owner and a sample.
Spread = Callable[[Numbers, Numbers], tuple[Numbers, Numbers]]


def keys_of_products(split: Split) -> Int64[np.ndarray, "kinds samples"]:
    """Reads a key of each product's group_id, of its text and of its main picture; 0: it has none.

    Case and blanks of a text make no difference. Further pictures do not count: a chart of sizes
    would make all that show it one product.

    Raises:
        ShardError: a product cannot be read.
    """
    keys = np.zeros((len(KINDS), len(split)), dtype=np.int64)
    read = tqdm(
        split.in_order(), desc="reading designs", total=len(split), leave=False, disable=None
    )
    for sample in read:
        fields, pictures = split.read_bytes(sample, PICTURES[:1])
        texts = fields.get("group_id", ""), normal_text(split.text_of(fields))
        for kind, text in enumerate(texts):
            keys[kind, sample] = key_of_bytes(text.encode()) if text else 0
        for picture in pictures.values():
            keys[2, sample] = key_of_bytes(picture)
    return keys


def twins_by(keys: Int64[np.ndarray, " samples"]) -> Spread:
    """Returns what gives all samples of the same key as some samples; key 0 equals no other."""
    number = np.unique(keys, return_inverse=True)[1]
    order = np.argsort(number, kind="stable")
    starts = np.searchsorted(number[order], np.arange(number.max(initial=-1) + 2))
    return partial(_spread, keys, number, order, starts)


def _spread(
    keys: Numbers, number: Numbers, order: Numbers, starts: Numbers, owner: Numbers, sample: Numbers
) -> tuple[Numbers, Numbers]:
    """Returns each owner with all samples that have a key of its own ones, once for each key."""
    has_key = keys[sample] != 0
    pairs = np.unique(np.stack([owner[has_key], number[sample[has_key]]]), axis=1)
    lengths = starts[pairs[1] + 1] - starts[pairs[1]]
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.repeat(pairs[0], lengths), order[np.repeat(starts[pairs[1]], lengths) + within]
