"""Several pictures of a product: one is drawn a step, and the mean of their vectors is searched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beyond_text.config.load import load_config
from beyond_text.retrieval.catalogue import Catalogue, DropModality
from beyond_text.retrieval.encode import Encoder, encode_products
from beyond_text.retrieval.read_split import read_products
from beyond_text.shards.batch import SampleIndex
from beyond_text.shards.dataset import Products
from beyond_text.shards.split import Split
from beyond_text.training.build import build
from data_prep.shards import build_shards

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
FIELDS = ["title"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Products of three pictures, two, one and none; each picture is of one colour."""
    shop = tmp_path_factory.mktemp("shop")
    for name, colour in COLOURS.items():
        Image.new("RGB", (40, 40), colour).save(shop / f"{name}.png")
    rows = ["three,vase,red.png|green.png|blue.png,train", "two,lamp,blue.png|red.png,train",
            "one,rug,green.png,train", "none,mug,,train", "dev,rug,red.png,dev"]  # fmt: skip
    (shop / "products.csv").write_text("product_id,title,image,split\n" + "\n".join(rows) + "\n")
    build_shards(shop, shop / "shards", picture_size=40, workers=1)
    return shop


def colour_of(picture: object) -> str:
    mean = np.asarray(picture).reshape(3, -1).mean(axis=1)
    return list(COLOURS)[int(mean.argmax())]


def test_training_draws_each_picture_of_a_product_over_the_epochs(shop: Path) -> None:
    split = Split(shop / "shards", "train", FIELDS)
    products = Products([split], 0, 40)
    number = {split.read(n, None)[0]["product_id"]: n for n in range(4)}
    drawn = {
        name: [
            [colour_of(products[SampleIndex(0, sample, epoch, slot)].image) for slot in range(2)]
            for epoch in range(30)
        ]
        for name, sample in number.items()
        if name != "none"
    }
    # The rows of one product show one picture.
    assert all(one == other for epochs in drawn.values() for one, other in epochs)
    seen = {name: {one for one, _ in epochs} for name, epochs in drawn.items()}
    assert seen == {"three": {"red", "green", "blue"}, "two": {"blue", "red"}, "one": {"green"}}
    assert products[SampleIndex(0, number["none"], 0)].image is None


@pytest.mark.parametrize("source", ["shards", "."])
def test_the_vector_of_a_product_is_the_mean_over_its_pictures(
    shop: Path, tiny_settings: list[str], source: str
) -> None:
    settings = [*tiny_settings, f"data.dev={shop / 'shards'}", "losses.text_image=1"]
    model, tokenizer = build(load_config([], settings))
    encoder, views = Encoder(model, tokenizer), ("text", "image", "product")
    catalogue = read_products(shop / source, "train", FIELDS, 32, 40)
    found = encode_products(encoder, catalogue, views)
    vectors = {view: dict(zip(*found[view], strict=True)) for view in views}
    assert set(vectors["text"]) == {"three", "two", "one", "none"}
    assert set(vectors["image"]) == {"three", "two", "one"}

    for number, product_id in enumerate(catalogue.product_ids):
        sample = catalogue.products[number]
        alone = [
            sample._replace(product_id=str(position), image=picture, further=())
            for position, picture in enumerate((sample.image, *sample.further))
        ]
        names = [str(position) for position in range(len(alone))]
        each = encode_products(encoder, Catalogue(alone, names), views)  # type: ignore[arg-type]
        for view in views:
            if product_id in vectors[view]:
                mean = each[view].vectors.mean(axis=0)
                expected = mean / np.linalg.norm(mean)
                np.testing.assert_allclose(vectors[view][product_id], expected, atol=1e-5)
    assert len(alone) == 1 or product_id != "one"


def test_a_product_that_loses_its_pictures_loses_all_of_them(shop: Path) -> None:
    catalogue = read_products(shop, "train", FIELDS, 32, 40)
    for number in range(4):
        sample = DropModality(catalogue.products, "image", 1.0)[number]
        assert sample.image is None
        assert sample.further == ()
