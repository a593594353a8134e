"""Beyond Text: a curriculum recipe for multimodal product search.

    model = beyond_text.load("runs/stage3")     # a finished run, or an export, without torch
    model.encode_queries(["a red striped cushion"])
    model.encode_products(["Cushion. Linen, 40 x 40 cm"], [Path("cushion.jpg")])

    index = beyond_text.Index.open("runs/shop/index")     # what `python -m beyond_text.index` makes
    index.search(["a red striped cushion"], where=["price<50"])

Nothing is imported before it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from beyond_text.encoding.model import load as load
    from beyond_text.indexing.index import Index as Index

# What the package offers, by the module that has it.
OFFERED = {
    "Index": "beyond_text.indexing.index",
    "load": "beyond_text.encoding.model",
}


def __getattr__(name: str) -> Any:
    if name not in OFFERED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(OFFERED[name]), name)


def __dir__() -> list[str]:
    return sorted((*globals(), *OFFERED))
