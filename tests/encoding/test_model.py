"""A model is loaded from a run or an export, and refuses rows that it cannot encode."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import beyond_text
from beyond_text.config.settings import ConfigError
from beyond_text.encoding.model import Model, load
from beyond_text.models.checkpoint import load_model, save_model
from beyond_text.retrieval.catalogue import Catalogue
from beyond_text.retrieval.encode import Encoder, encode_products, encode_queries
from beyond_text.retrieval.query_set import COLUMNS, QuerySet
from beyond_text.retrieval.read_split import read_products
from beyond_text.tables.pictures import decode_pixels, reduce_picture
from tests import ROOT
from tests.conftest import tiny_tokenizer
from tests.encoding.samples import moved, some_pictures, some_texts
from tests.models.test_two_tower import tiny_model


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run")
    model = tiny_model(folder, "bert", "timm_resnet", share_text_encoder=False)
    save_model(moved(model), tiny_tokenizer(), run)
    return run


@pytest.fixture(scope="module")
def model(run: Path) -> Model:
    return load(run)


def test_products_have_the_vectors_that_an_evaluation_gives_them(
    run: Path, model: Model, tiny_tables: Path, tiny_shards: Path
) -> None:
    whole, tokenizer = load_model(run)
    settings = whole.settings
    sizes = settings.image_size, settings.picture_size
    catalogue: Catalogue = read_products(tiny_tables, "dev", settings.text_fields, *sizes)
    expected = encode_products(Encoder(whole, tokenizer), catalogue)["product"]
    rows = catalogue.products.rows  # type: ignore[attr-defined]
    texts = [catalogue.products[n].text for n in range(len(rows))]
    files = [Path(row["image"]) if row["image"] else None for row in rows]
    np.testing.assert_allclose(model.encode_products(texts, files), expected.vectors, atol=1e-6)
    # As shards hold them: they are not encoded as JPEG once more.
    stored = [file and reduce_picture(file.read_bytes(), sizes[1]) for file in files]
    np.testing.assert_allclose(model.encode_products(texts, stored), expected.vectors, atol=1e-6)


def test_queries_have_the_vectors_that_an_evaluation_gives_them(run: Path, model: Model) -> None:
    whole, tokenizer = load_model(run)
    texts, files = ["red vase", "", "a lamp"], some_pictures(3)
    settings = whole.settings
    pixels = [
        decode_pixels(reduce_picture(f, settings.picture_size), reduce_to=settings.image_size)
        for f in files
    ]
    rows = [(str(number), text, "", "") for number, text in enumerate(texts)]
    queries = QuerySet(pd.DataFrame(rows, columns=COLUMNS), pd.DataFrame(), pixels.__getitem__)
    encoder = Encoder(whole, tokenizer)
    expected = encode_queries(encoder, queries).vectors
    np.testing.assert_allclose(model.encode_queries(texts, files), expected, atol=1e-6)
    words = QuerySet(pd.DataFrame(rows, columns=COLUMNS).drop(index=1), pd.DataFrame())
    expected = encode_queries(encoder, words).vectors
    # By the query's side alone, and by the whole model.
    for each in (load(run), model):
        np.testing.assert_allclose(each.encode_queries(["red vase", "a lamp"]), expected, atol=1e-6)


def test_a_product_of_several_pictures_has_the_mean_of_its_vectors(model: Model) -> None:
    first, second, third = some_pictures(3)
    both = model.encode_products(["red vase", "a rug"], [(first, second), third])
    apart = model.encode_products(["red vase"] * 2, [first, second])
    mean = apart.mean(axis=0)
    np.testing.assert_allclose(both[0], mean / np.linalg.norm(mean), atol=1e-6)
    np.testing.assert_allclose(both[1:], model.encode_products(["a rug"], [third]), atol=1e-6)


def test_no_rows_have_no_vectors(model: Model) -> None:
    assert model.encode_queries([]).shape == (0, model.dim)
    assert model.encode_products([], []).shape == (0, model.dim)


PICTURE = some_pictures(1)[0]


@pytest.mark.parametrize(
    ("texts", "images", "message"),
    [
        (["a vase", " "], None, "row 1: expected a text or a picture, got neither"),
        (["a vase", ""], [PICTURE, None], "row 1: expected a text or a picture, got neither"),
        (["a vase", ""], [PICTURE, ()], "row 1: expected a text or a picture, got neither"),
        (["a vase"], [PICTURE] * 2, "expected as many texts as images, got"),
        (None, None, "expected as many texts as images, got neither"),
        ("a vase", None, "texts: expected a list, got one str"),
        (None, PICTURE, "images: expected a list, got one bytes"),
        (None, Path("a.jpg"), "images: expected a list, got one "),
        ([None], None, "row 0: expected a text, got NoneType"),
        ([3], None, "row 0: expected a text, got int"),
        (None, ["a.jpg"], "row 0: expected a picture's bytes or Path, got str"),
        (None, [PICTURE, b"no"], "row 1: expected JPEG, PNG"),
        (None, [Path("no/such.jpg")], r"row 0 \(no/such.jpg\): expected a file, found none"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else repr(value)[:30],
)
@pytest.mark.parametrize("side", ["encode_queries", "encode_products"])
def test_a_row_that_cannot_be_encoded_is_named(
    model: Model, side: str, texts: object, images: object, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        getattr(model, side)(texts, images)


def test_a_query_has_one_picture(model: Model) -> None:
    with pytest.raises(ValueError, match="row 0: 2 pictures, expected 1"):
        model.encode_queries(None, [(PICTURE, PICTURE)])


def test_what_is_no_model_is_refused(tmp_path: Path, run: Path) -> None:
    for place in (tmp_path, tmp_path / "none"):
        with pytest.raises(ConfigError, match=r"expected a finished run .* or an export"):
            load(place)
    with pytest.raises(ConfigError, match="int8 is a precision of exports"):
        load(run, precision="int8")
    with pytest.raises(ConfigError, match="expected float32 or int8, got 'int4'"):
        load(run, precision="int4")  # type: ignore[arg-type]


def test_another_file_of_the_model_is_another_digest(
    folder: Path, tmp_path: Path, run: Path, model: Model
) -> None:
    save_model(tiny_model(folder, "bert", "timm_resnet"), tiny_tokenizer(), tmp_path)
    first = load(tmp_path).digest
    assert first != model.digest
    settings = tmp_path / "model" / "settings.yaml"
    settings.write_text(settings.read_text().replace("query_prefix: ''", "query_prefix: 'q '"))
    assert load(tmp_path).digest != first
    assert load(run).digest == model.digest


def test_the_package_costs_nothing_and_encodes_without_lightning(run: Path) -> None:
    assert beyond_text.load is load
    assert "load" in dir(beyond_text)
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = beyond_text.lode
    code = (
        "import sys, beyond_text\n"
        "assert not {'torch', 'numpy', 'omegaconf'} & set(sys.modules)\n"
        f"model = beyond_text.load({str(run)!r})\n"
        "model.encode_queries(['red vase'])\n"
        "assert not {'transformers', 'timm', 'pandas'} & set(sys.modules)\n"
        "model.encode_products(['red vase'])\n"
        "assert not {'pytorch_lightning', 'lightning', 'tensorboard'} & set(sys.modules)"
    )
    # The whole model encodes where there is a GPU.
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=environment)


def test_samples_are_cut_by_a_tiny_model() -> None:
    lengths = [len(text.split()) for text in some_texts(64)]
    assert (min(lengths), max(lengths)) == (2, 20)
