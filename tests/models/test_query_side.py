"""The part of a model that a text search loads gives the vectors of the whole model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from beyond_text.models.checkpoint import load_model, save_model
from beyond_text.models.query_side import load_query_side
from beyond_text.retrieval.encode import Encoder, encode_queries
from beyond_text.retrieval.query_set import COLUMNS, QuerySet
from tests import ROOT
from tests.conftest import tiny_tokenizer
from tests.models.test_checkpoint import tiny_model

TEXTS = ["red vase", "a Red lamp for the home", "rug"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"share_text_encoder": False},
        {"query_prefix": "red "},
        {"lower_case": True},
        {"pooling": "cls"},
        {"image_pooling": "mean"},
        {"pooling": "max+mean"},
        {"pooling": "pooler"},
        {"max_length": 4},
        {"text_head": [{"kind": "normalize"}]},
    ],
    ids=str,
)
def test_the_query_side_gives_the_query_vectors_of_the_whole_model(
    folder: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    width = {"dim": 32} if "+" in changes.get("pooling", "") else {}
    model = tiny_model(folder, "bert", "vit", **changes, **width)
    save_model(model, tiny_tokenizer(), tmp_path)
    whole, tokenizer = load_model(tmp_path)
    rows = [(str(number), text, "query", "") for number, text in enumerate(TEXTS)]
    queries = QuerySet(pd.DataFrame(rows, columns=COLUMNS), pd.DataFrame())
    expected = encode_queries(Encoder(whole, tokenizer), queries).vectors
    side = load_query_side(tmp_path)
    assert side is not None
    np.testing.assert_allclose(side.encode(TEXTS, bf16=False).numpy(), expected, atol=1e-6)


def test_a_fusion_of_tokens_needs_the_whole_model(folder: Path, tmp_path: Path) -> None:
    model = tiny_model(folder, "bert", "vit", fusion="uniecs")
    save_model(model, tiny_tokenizer(), tmp_path)
    assert load_query_side(tmp_path) is None
    # As does a setting from a later version.
    settings = tmp_path / "model" / "settings.yaml"
    save_model(tiny_model(folder, "bert", "vit"), tiny_tokenizer(), tmp_path)
    settings.write_text(settings.read_text() + "later: 1\n")
    assert load_query_side(tmp_path) is None


def test_a_plain_bert_needs_none_of_the_libraries_that_take_long_to_import(
    folder: Path, tmp_path: Path
) -> None:
    save_model(tiny_model(folder, "bert", "vit"), tiny_tokenizer(), tmp_path)
    code = (
        "import sys; from pathlib import Path\n"
        "from beyond_text.models.query_side import load_query_side\n"
        f"load_query_side(Path({str(tmp_path)!r})).encode(['red vase'], False)\n"
        "assert not {'transformers', 'peft', 'pandas', 'torchvision'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
