"""How sure a difference is: bootstrap intervals and paired permutation tests over queries."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

RESAMPLES = 10_000


class Comparison(NamedTuple):
    """A mean paired difference, its 95 % interval and its two-sided p."""

    difference: float
    low: float
    high: float
    p: float


def interval(values: Float[np.ndarray, " queries"], seed: int = 0) -> tuple[float, float, float]:
    """Gives the mean and its 95 % percentile-bootstrap interval: (mean, low, high).

    The interval of fewer than two values is (nan, nan). Efron and Tibshirani 1993, chapter 13.
    """
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, float("nan"), float("nan")
    result = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=_batch(values),
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return mean, float(result.confidence_interval.low), float(result.confidence_interval.high)


def compare_paired(
    a: Float[np.ndarray, " queries"], b: Float[np.ndarray, " as_many"], seed: int = 0
) -> Comparison:
    """Compares two systems on the same queries: mean of a - b, its 95 % interval, and p.

    The interval is a bootstrap over queries; p is that of the paired sign-flip permutation test
    (Fisher's randomisation test, recommended by Smucker et al. 2007), exact where all sign
    patterns number no more than 10,000.

    Raises:
        ValueError: the two do not have the same length.
    """
    if a.shape != b.shape:
        raise ValueError(f"paired values expected, got {len(a)} and {len(b)} queries")
    differences = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    if len(differences) < 2:
        return Comparison(*interval(differences), p=1.0)
    test = stats.permutation_test(
        (differences,),
        lambda flipped, axis: np.mean(flipped, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=_batch(differences),
        rng=np.random.default_rng(seed),
    )
    return Comparison(*interval(differences, seed), p=float(test.pvalue))


def _batch(values: np.ndarray) -> int:
    """How many resamples to hold at once: some 30 MB of them."""
    return max(1, 4_000_000 // len(values))
