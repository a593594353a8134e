"""sentence-transformers loads an export's query folder by itself, and gives our query vectors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from beyond_text.encoding.model import load
from beyond_text.exporting.sentence import QUERY_FOLDER, write_query_folder
from beyond_text.models.checkpoint import load_model, save_model
from beyond_text.models.two_tower import build_model
from tests.conftest import tiny_tokenizer
from tests.encoding.samples import moved, some_texts
from tests.models.test_two_tower import SETTINGS

TEXTS = [*some_texts(24), "Red VASE", "a RED lamp for the home"]
# To a tiny XLM-R, the token of unknown words is padding.
KNOWN = some_texts(26)


def write(folder: Path, run: Path, text: str, **changes: Any) -> str | None:
    settings = replace(SETTINGS, **changes)
    torch.manual_seed(0)
    model = build_model(settings, str(folder / text), str(folder / "vit"), pretrained=False)
    save_model(moved(model), tiny_tokenizer(), run)
    return write_query_folder(*load_model(run), run)


DENSE = {"kind": "dense", "inputs": 16, "outputs": 16, "bias": True, "activation": "Tanh"}


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("bert", {}),
        ("bert", {"share_text_encoder": False}),
        ("bert", {"pooling": "cls", "query_prefix": "the "}),
        ("bert", {"lower_case": True, "max_length": 6}),
        ("bert", {"pooling": "max+mean"}),
        ("bert", {"pooling": "last"}),
        ("bert", {"pooling": "weighted_mean"}),
        ("bert", {"text_head": [DENSE, {"kind": "normalize"}]}),
        ("xlm-roberta", {"dim": 8}),
        ("clip", {}),
        ("clip", {"pooling": "mean"}),
    ],
    ids=str,
)
def test_the_folder_gives_our_query_vectors(
    folder: Path, tmp_path: Path, text: str, changes: dict[str, Any]
) -> None:
    library = pytest.importorskip("sentence_transformers")
    assert write(folder, tmp_path, text, **changes) is None
    loaded = library.SentenceTransformer(str(tmp_path / QUERY_FOLDER), device="cpu")
    texts = KNOWN if text == "xlm-roberta" else TEXTS
    found = loaded.encode(texts)
    np.testing.assert_allclose(found, load(tmp_path).encode_queries(texts), atol=1e-5)
    products = loaded.encode(texts, prompt_name="document")
    assert np.allclose(products, found, atol=1e-5) == ("query_prefix" not in changes)


@pytest.mark.parametrize(
    ("text", "changes", "reason"),
    [
        ("bert", {"fusion": "uniecs"}, "UniECS's own encoder"),
        ("siglip", {}, "siglip pads every text"),
        ("bert", {"pooling": "pooler"}, "bert's own pooler"),
    ],
)
def test_what_cannot_be_such_a_folder_is_said(
    folder: Path, tmp_path: Path, text: str, changes: dict[str, Any], reason: str
) -> None:
    assert reason in (write(folder, tmp_path, text, **changes) or "")
    assert not (tmp_path / QUERY_FOLDER).exists()
