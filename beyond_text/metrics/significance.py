"""Computes bootstrap intervals and paired permutation tests over queries.

Queries of one group (`groups` numbers them) ask for the same products in other words. Their values
rise and fall together, so a group is resampled, or has its sign flipped, as one unit: dozens of
phrasings of ten needs are ten observations. Without `groups` every query is a group of its own.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

RESAMPLES = 10_000


class Comparison(NamedTuple):
    """A mean paired difference, its 95 % interval (low, high) and its two-sided p."""

    difference: float
    low: float
    high: float
    p: float


def interval(
    values: Float[np.ndarray, " queries"],
    groups: Int[np.ndarray, " queries"] | None = None,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Returns the mean and its 95 % percentile-bootstrap interval: (mean, low, high).

    The interval of fewer than two groups is (nan, nan). Source: Efron and Tibshirani 1993,
    chapter 13; with groups, the cluster bootstrap (Field and Welsh 2007).
    """
    sums, sizes = _by_group(values, groups)
    mean = float(np.mean(values)) if len(values) else float("nan")
    if len(sums) < 2:
        return mean, float("nan"), float("nan")
    result = stats.bootstrap(
        (sums, sizes),
        lambda sums, sizes, axis: sums.sum(axis=axis) / sizes.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=_batch(sums),
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return mean, float(result.confidence_interval.low), float(result.confidence_interval.high)


def compare_paired(
    a: Float[np.ndarray, " queries"],
    b: Float[np.ndarray, " as_many"],
    groups: Int[np.ndarray, " queries"] | None = None,
    seed: int = 0,
) -> Comparison:
    """Compares two systems on the same queries: mean of a - b, its 95 % interval, and p.

    The interval is a bootstrap over groups of queries. The p-value is that of the paired sign-flip
    permutation test of the groups' sums (Fisher's randomisation test, recommended by Smucker et al.
    2007); it is exact where there are no more than 10,000 sign patterns.

    Raises:
        ValueError: the two do not have the same length.
    """
    if a.shape != b.shape:
        raise ValueError(f"paired values expected, got {len(a)} and {len(b)} queries")
    differences = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    sums, _ = _by_group(differences, groups)
    if len(sums) < 2:
        return Comparison(*interval(differences, groups), p=1.0)
    test = stats.permutation_test(
        (sums,),
        lambda flipped, axis: np.mean(flipped, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=_batch(sums),
        rng=np.random.default_rng(seed),
    )
    return Comparison(*interval(differences, groups, seed), p=float(test.pvalue))


def in_words(comparison: Comparison) -> str:
    """Returns the difference, its interval and p as text: "+0.012 [+0.003, +0.020], p = 0.013"."""
    difference, low, high, p = comparison
    chance = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    return f"{difference:+.3f} [{low:+.3f}, {high:+.3f}], {chance}"


def with_interval(mean: float, low: float, high: float) -> str:
    """Returns a mean and its interval as text: "0.912 [0.903, 0.920]"."""
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def _by_group(values: np.ndarray, groups: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sum of each group's values, and the group's size."""
    if groups is None:
        groups = np.arange(len(values))
    _, group = np.unique(groups, return_inverse=True)
    return np.bincount(group, weights=values), np.bincount(group)


def _batch(values: np.ndarray) -> int:
    """Returns how many resamples are held at once: about 30 MB of them."""
    return max(1, 4_000_000 // len(values))
