"""Turns cosines of pictures with words into the words that pictures are confidently tagged with.

A word whose vector lies near every picture would win everywhere, so each word's scores are set
against those that it has over the whole catalogue.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import softmax

# The softmax of what `debiased` returns, times this, is the confidence.
SHARPNESS = 2.0


class Chosen(NamedTuple):
    """The best word of each picture by its number, and how sure it is, 0 to 1."""

    word: Int[np.ndarray, " pictures"]
    confidence: Float[np.ndarray, " pictures"]


def debiased(scores: Float[np.ndarray, "pictures words"]) -> Float[np.ndarray, "pictures words"]:
    """Returns how far a picture's score is above its word's mean, in standard deviations of all.

    The deviation is one for all words: those of which the model knows little vary little, and stay
    near 0. On H&M, with deviations of each word, the surest tenth was right in 0.71, not in 0.90.
    """
    above = scores - scores.mean(axis=0)
    spread = above.std()
    return above / spread if spread > 1e-6 else np.zeros_like(above)


def choose(scores: Float[np.ndarray, "pictures words"], among: Sequence[Sequence[int]]) -> Chosen:
    """Chooses the best word of each picture, among all or among those that its text names.

    Args:
        scores: as `debiased` returns them.
        among: the numbers of the words to choose from; none for all.
    """
    allowed = np.ones(scores.shape, dtype=bool)
    for row, numbers in enumerate(among):
        if numbers:
            allowed[row] = np.isin(np.arange(scores.shape[1]), numbers)
    sure = softmax(SHARPNESS * np.where(allowed, scores, -np.inf), axis=1)
    word = sure.argmax(axis=1)
    return Chosen(word, sure[np.arange(len(sure)), word])


def surest(
    confidence: Float[np.ndarray, " pictures"], least: float, top_share: float
) -> Bool[np.ndarray, " pictures"]:
    """Returns which pictures are sure enough: at least so sure, and in that share of the surest."""
    kept = confidence >= least
    # 0.29 of 100 are 29, which is a little more than their product.
    most = int(np.floor(round(top_share * len(confidence), 6)))
    order = np.argsort(-confidence, kind="stable")
    first = np.zeros(len(confidence), dtype=bool)
    first[order[:most]] = True
    return kept & first
