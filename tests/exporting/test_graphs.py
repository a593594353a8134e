"""The graphs of an export give torch's vectors, whatever the batch, the lengths and what lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beyond_text.config.names import FUSION_NAMES
from beyond_text.encoding.export_model import ExportModel
from beyond_text.encoding.model import load
from beyond_text.encoding.run_model import digest_of_run
from beyond_text.exporting.graphs import write_graphs
from beyond_text.exporting.preprocessing import write_preprocessing_of
from beyond_text.models.checkpoint import load_model, save_model
from tests.conftest import tiny_tokenizer
from tests.encoding.samples import moved, some_products
from tests.models.test_two_tower import tiny_model

# PyTorch's export takes seconds a graph.
pytestmark = pytest.mark.slow


def export(folder: Path, run: Path, text: str, image: str, **changes: Any) -> ExportModel:
    """Saves a tiny model as a run and exports it; returns the export's model."""
    save_model(moved(tiny_model(folder, text, image, **changes)), tiny_tokenizer(), run)
    model, tokenizer = load_model(run)
    out = run / "out"
    out.mkdir()
    write_preprocessing_of(model, tokenizer, digest_of_run(run), out)
    write_graphs(model, out)
    return ExportModel(out)


def assert_equal_vectors(run: Path, exported: ExportModel) -> None:
    expected = load(run)
    assert (exported.dim, exported.digest) == (expected.dim, expected.digest)
    for count in (1, 3, 64):
        texts, pictures = some_products(count)
        alternating = [text if n % 3 != 1 else "" for n, text in enumerate(texts)]
        some = [picture if n % 3 != 2 else None for n, picture in enumerate(pictures)]
        for given in ((texts, None), (None, pictures), (texts, pictures), (alternating, some)):
            for side in ("encode_queries", "encode_products"):
                want, got = getattr(expected, side)(*given), getattr(exported, side)(*given)
                np.testing.assert_allclose(got, want, atol=1e-4, err_msg=f"{side} of {count}")


@pytest.mark.parametrize("fusion", FUSION_NAMES)
def test_every_fusion_gives_the_vectors_of_torch(folder: Path, tmp_path: Path, fusion: str) -> None:
    changes = {"share_text_encoder": fusion not in ("gated", "uniecs")}
    exported = export(folder, tmp_path, "bert", "timm_resnet", fusion=fusion, **changes)
    assert_equal_vectors(tmp_path, exported)


@pytest.mark.parametrize(
    ("text", "image"),
    [
        ("xlm-roberta", "vit"),
        ("clip", "clip"),
        ("siglip", "siglip"),
        ("bert", "dinov2"),
        ("siglip2_naflex", "timm_vit"),
    ],
)
def test_every_class_of_encoder_gives_the_vectors_of_torch(
    folder: Path, tmp_path: Path, text: str, image: str
) -> None:
    assert_equal_vectors(tmp_path, export(folder, tmp_path, text, image))
