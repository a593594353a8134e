"""Defines a ranking, what a search returns; imports no library of measures."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Ranking(NamedTuple):
    """The products found for each query, best first; scores are float32."""

    query_ids: list[str]
    product_ids: list[list[str]]
    scores: Float[np.ndarray, "queries k"]
