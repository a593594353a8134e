"""The views of a query and a product, and which of them every objective contrasts.

One vocabulary from tower to loss to evaluation: query, text, image, product (the fused vector), and
for a query that has a picture `trigger_text` and `trigger_image`, its text or its picture alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

View = Literal["query", "text", "image", "product", "trigger_text", "trigger_image"]

# The views that a contrastive objective contrasts.
PAIRS: dict[str, tuple[View, View]] = {
    "text_image": ("text", "image"),
    "query_text": ("query", "text"),
    "query_image": ("query", "image"),
    "query_product": ("query", "product"),
}


class Side(NamedTuple):
    """The views of one side: its text alone, its picture alone, and both fused."""

    text: View
    image: View
    fused: View


QUERY = Side("trigger_text", "trigger_image", "query")
PRODUCT = Side("text", "image", "product")
# The objective that takes its targets from another model.
TEACHER = "teacher"
# The views that each field of Losses needs.
OBJECTIVE_VIEWS: dict[str, tuple[View, ...]] = {
    **PAIRS,
    "cmal": (*QUERY, *PRODUCT),
    "clal": (*QUERY, *PRODUCT),
    "imcl": ("trigger_text", "trigger_image", "text", "image"),
    TEACHER: ("query", "product"),
}


def uses_queries(losses: Iterable[str]) -> bool:
    """Says whether one of the losses has a view other than a product's text and picture."""
    return any(not {"text", "image"}.issuperset(OBJECTIVE_VIEWS[name]) for name in losses)
