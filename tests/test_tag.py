"""Products are tagged by their texts first, then by what a model sees that had no judgments."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from beyond_text.config.load import load_config
from beyond_text.models.checkpoint import load_model
from beyond_text.retrieval.described import Described
from beyond_text.retrieval.encode import Encoder
from beyond_text.retrieval.read_split import read_products
from beyond_text.tag import main, tag
from beyond_text.tagging.tag import tag_products, type_of, types_of
from beyond_text.tagging.words import read_fields
from beyond_text.train import train
from data_prep.shards import build_shards
from tests.conftest import COLOURS, KINDS

pytestmark = pytest.mark.slow
WORDS = 'colour:\n  prompts: ["{word} {category}", "{word}"]\n  words: {red: , blue: , green: }\n'


def write_shop(folder: Path, split: str, count: int, named: bool) -> Path:
    """Writes a shop of coloured squares whose titles name the colour, or the kind alone."""
    random = np.random.default_rng(len(split))
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        colour, kind = list(COLOURS)[number % 3], KINDS[number % 4]
        noise = random.integers(-20, 20, (40, 30, 3))
        pixels = np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"images/{split}{number}.png")
        title = f"{colour} {kind}" if named else kind
        category = f"home > {kind}" if number < 24 else ""
        rows.append((f"{split}{number}", title, category, f"images/{split}{number}.png", split))
    columns = ["product_id", "title", "category", "image", "split"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "products.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def stage1(tiny_settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of text against picture alone, on a shop whose titles name colours."""
    folder = tmp_path_factory.mktemp("stage1")
    tables = write_shop(folder / "named", "train", 96, named=True)
    shards = folder / "shards"
    build_shards(tables, shards, picture_size=40, dev_share=0.0, workers=1)
    words = [
        *tiny_settings,
        f"data.sources.tables.path={shards}",
        f"run={folder / 'run'}",
        "steps=40",
        "batch_size=24",
        "losses={text_image: 1.0, query_text: 0, query_image: 0, query_product: 0}",
        "memory_size=0",
        "data.queries_per_product=1",
        "lr.image_encoder=1e-2",
        "lr.text_encoder=1e-2",
        "lr.projections=1e-2",
    ]
    train(load_config([], words))
    return folder / "run"


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("words") / "words.yaml"
    file.write_text(WORDS)
    return file


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop that names no colour."""
    return write_shop(tmp_path_factory.mktemp("shop"), "dev", 48, named=False)


def truth(table: pd.DataFrame) -> list[str]:
    return [list(COLOURS)[int(each.removeprefix("dev")) % 3] for each in table["product_id"]]


def test_colours_are_seen_in_pictures_of_another_shop(
    stage1: Path, words: Path, shop: Path, tmp_path: Path
) -> None:
    tagged = tag(stage1, shop, tmp_path / "out", words, confidence=0.0)
    table = pd.read_csv(tmp_path / "out/attributes.csv", dtype=str, keep_default_na=False)
    assert list(table) == ["product_id", "colour", "product_type"]
    assert len(table) == 48
    assert (table["colour"] == truth(table)).mean() > 0.9
    assert tagged.counts["colour"] == (0, 48, 48)
    # A product without a category has the type that its title names.
    assert (table["product_type"] == [KINDS[n % 4] for n in range(48)]).all()


def test_fewer_are_kept_where_they_have_to_be_surer(
    stage1: Path, words: Path, shop: Path, tmp_path: Path
) -> None:
    every = tag(stage1, shop, tmp_path / "a", words, confidence=0.0)
    sure = every.confidence["colour"]
    least = float(np.median(sure))
    some = tag(stage1, shop, tmp_path / "b", words, confidence=least)
    kept = some.table["colour"] != ""
    assert (kept.to_numpy() == (sure >= least)).all()
    assert (some.table["colour"][kept] == every.table["colour"][kept]).all()
    share = tag(stage1, shop, tmp_path / "c", words, confidence=0.0, top_share=0.25)
    assert (share.table["colour"] != "").sum() == 12
    assert sure[share.table["colour"] != ""].min() >= np.sort(sure)[-12]


def test_a_word_of_the_text_comes_before_the_picture(
    stage1: Path, words: Path, tmp_path: Path
) -> None:
    shop = write_shop(tmp_path / "shop", "dev", 12, named=False)
    table = pd.read_csv(shop / "products.csv", dtype=str)
    # The picture of dev0 is red, of dev1 blue, of dev2 green, of dev3 red.
    table.loc[0, "title"] = "Blue-green vase"
    table.loc[1, "title"] = "vase in GREEN"
    table.loc[2, "title"] = "reddish vase"
    table.loc[3, ["title", "image"]] = "green and blue vase", ""
    table["description"] = ""
    table.loc[1, "description"] = "with a red rim"
    table.to_csv(shop / "products.csv", index=False)
    tagged = tag(stage1, shop, tmp_path / "out", words, confidence=0.0)
    found = tagged.table["colour"].tolist()
    # Of two words that the title names the picture chooses; without a picture none is taken.
    assert found[0] in ("blue", "green")
    assert found[1:4] == ["green", "green", ""]
    assert tagged.counts["colour"] == (1, 10, 12)


def test_shards_give_what_their_tables_give(
    stage1: Path, words: Path, shop: Path, tmp_path: Path
) -> None:
    build_shards(shop, tmp_path / "shards", picture_size=40, workers=1)
    encoder = Encoder(*load_model(stage1))
    settings = encoder.model.settings
    tables = []
    for folder in (shop, tmp_path / "shards"):
        catalogue = read_products(folder, None, settings.text_fields, 32, settings.picture_size)
        found = tag_products(encoder, catalogue, read_fields(words), 0.5).table
        tables.append(found.set_index("product_id").sort_index())
    pd.testing.assert_frame_equal(*tables)


def test_the_command_prints_the_share_and_refuses_in_one_line(
    stage1: Path, words: Path, shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    given = [str(stage1), str(shop), str(out), "--words", str(words), "--confidence", "0"]
    main([*given, "--split", "dev"])
    main([*given, "--split", "dev"])
    (other := tmp_path / "other").mkdir()
    (other / "attributes.csv").touch()
    printed = capsys.readouterr().out
    assert "48 (100%)" in printed
    assert "attributes.csv" in printed
    for bad, message in (
        ([str(stage1), str(shop), str(shop)], "the shop's own folder"),
        ([str(stage1), str(shop / "products.csv"), str(shop)], "the shop's own folder"),
        ([str(stage1), str(shop), str(other)], "attributes.csv: not of this command"),
        ([str(stage1), str(tmp_path / "no"), str(out)], "no such file or folder"),
        ([str(tmp_path / "no"), str(shop), str(out)], "no finished model"),
        ([*given, "--split", "test"], "no products in split 'test'"),
        ([*given[:3], "--words", str(tmp_path / "no.yaml")], "no.yaml"),
    ):
        with pytest.raises(SystemExit, match=rf"^error: .*{message}"):
            main(bad)
    for bad in (["--confidence", "2"], ["--top-share", "-1"], ["--confidence", "nan"]):
        with pytest.raises(SystemExit, match="2"):
            main([*given, *bad])


def test_a_product_without_a_type_has_that_which_its_title_names() -> None:
    titles = ["Blue Vase, large", "Vases", "Wall-clock (oak)", "Clock"]
    described = [Described(title, title, {"title": title}) for title in titles]
    assert types_of(["", "", "", "clock"], described) == ["", "", "clock", "clock"]
    assert types_of(["", "vase"], described[:2]) == ["vase", "vase"]


@pytest.mark.parametrize(
    ("category", "kind"),
    [
        ("Ladieswear > Underwear Tights", "underwear tights"),
        ("Leggings/Tights", "leggings/tights"),
        ("Home / Rugs", "rugs"),
        ("Home|Rugs ", "rugs"),
        ("Quilt cover (150x200,50x80 cm)", "quilt cover"),
        ("Home \u00bb Rugs", "rugs"),
        ("M\u00f6bel \u203a St\u00fchle", "st\u00fchle"),
        ("\u5bb6\u5177 > \u6c99\u53d1", "\u6c99\u53d1"),
        ("(Kids) Shoes (12)", "shoes"),
        ("Rugs > ", "rugs"),
        ("Home > Uncategorized", ""),
        ("> >", ""),
        ("N/A", ""),
        ("  ", ""),
        ("", ""),
    ],
)
def test_the_type_is_the_last_step_of_the_category(category: str, kind: str) -> None:
    assert type_of(category) == kind
