"""Measures texts in tokens, or in words, against the most tokens that an encoder reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from transformers import AutoTokenizer

from beyond_text.terminal import first_line

BINS = 16
# Texts that any tokenizer tells apart.
PROBES = ["a red cushion", "the blue vase"]


class EncoderError(ValueError):
    """A folder holds no tokenizer that can be used."""


class Lengths(NamedTuple):
    """Lengths of distinct texts: quantiles, the share above the limit, and a histogram.

    `bins` are counts of equally wide ranges, from 0 to `highest`, the last of which also holds
    what is longer.
    """

    kind: str
    texts: int
    median: int
    ninety: int
    longest: int
    limit: int
    cut: int
    bins: list[int]
    highest: int


def length_counter(encoder: str) -> tuple[str, Callable[[list[str]], list[int]]]:
    """Returns "tokens" and what counts them with an encoder's tokenizer; "words" for "".

    Special tokens count, as they do when a text is cut.

    Raises:
        EncoderError: there is no tokenizer, or one that tells no two texts apart.
    """
    if not encoder:
        return "words", lambda texts: [len(text.split()) for text in texts]
    if not Path(encoder).is_dir():
        raise EncoderError(f"{encoder}: expected the folder of a text encoder")
    try:
        tokenizer = AutoTokenizer.from_pretrained(encoder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise EncoderError(f"{encoder}: no tokenizer there: {first_line(error)}") from error

    def count(texts: list[str]) -> list[int]:
        return [len(ids) for ids in tokenizer(texts, verbose=False)["input_ids"]] if texts else []

    first, second = tokenizer(PROBES)["input_ids"]
    if first == second:
        raise EncoderError(f"{encoder}: no tokenizer there: two texts become the same tokens")
    return "tokens", count


def measure(
    kind: str, texts: Sequence[str], count: Callable[[list[str]], list[int]], limit: int
) -> Lengths | None:
    """Measures the distinct texts that are not empty; None where there are none."""
    distinct = list(dict.fromkeys(text for text in texts if text))
    if not distinct:
        return None
    lengths = np.array(count(distinct))
    median, ninety, most = np.quantile(lengths, [0.5, 0.9, 0.99], method="higher")
    # A few endless texts would leave one bar for all others.
    width = max(1, -(-max(int(most), limit) // BINS))
    bins = np.bincount(np.minimum(lengths // width, BINS - 1), minlength=BINS)
    return Lengths(
        kind=kind,
        texts=len(distinct),
        median=int(median),
        ninety=int(ninety),
        longest=int(lengths.max()),
        limit=limit,
        cut=int((lengths > limit).sum()),
        bins=bins.tolist(),
        highest=width * BINS,
    )
