"""The evaluation reports what training reported, and what counting by hand gives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from beyond_text.config.load import load_config
from beyond_text.evaluate import evaluate, main
from beyond_text.evaluation.compare import names_of
from beyond_text.models.checkpoint import load_model
from beyond_text.retrieval.encode import Encoder, encode_products, encode_queries, evaluating
from beyond_text.retrieval.read_split import read_split
from beyond_text.shards.collate import tokenize
from beyond_text.shards.manifest import ShardError
from beyond_text.shards.split import Split
from beyond_text.tables.layouts import TableError
from beyond_text.tables.rejects import RejectError
from beyond_text.train import train
from data_prep.shards import build_shards
from tests.hostile import sign

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tiny_settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate") / "run"
    words = [*tiny_settings, f"run={folder}", "steps=3", "losses.query_product=1"]
    train(load_config([], words))
    return folder


def by_hand(run: Path, tables: Path, depth: int) -> dict[str, float]:
    """Computes nDCG and recall at `depth`, and mrr, from the vectors alone, query by query."""
    encoder = Encoder(*load_model(run))
    settings = encoder.model.settings
    catalogue, query_set = read_split(tables, "dev", settings.text_fields, 32)
    queries = encode_queries(encoder, query_set).vectors
    products = encode_products(encoder, catalogue)["product"]
    assert np.linalg.norm(products.vectors, axis=1) == pytest.approx(1)
    found: dict[str, list[float]] = {"ndcg": [], "recall": [], "mrr": []}
    for query_id, vector in zip(query_set.queries["query_id"], queries, strict=True):
        own = query_set.qrels[query_set.qrels["query_id"] == query_id]
        grade = dict(zip(own["product_id"], own["relevance"], strict=True))
        order = np.argsort(-(products.vectors @ vector), kind="stable")
        grades = [grade.get(products.ids[place], 0) for place in order]
        gains = [(2**g - 1) / np.log2(place + 2) for place, g in enumerate(grades[:depth])]
        best = sorted(grade.values(), reverse=True)[:depth]
        ideal = sum((2**g - 1) / np.log2(place + 2) for place, g in enumerate(best))
        found["ndcg"].append(sum(gains) / ideal)
        found["recall"].append(sum(g > 0 for g in grades[:depth]) / sum(g > 0 for g in best))
        found["mrr"].append(1 / (1 + next(p for p, g in enumerate(grades) if g > 0)))
    return {name: float(np.mean(values)) for name, values in found.items()}


def test_numbers_from_the_run_folder_are_those_training_reported(
    run: Path, tiny_shards: Path, tiny_tables: Path, tmp_path: Path
) -> None:
    reported = json.loads((run / "metrics.json").read_text())
    del reported["training"]
    for source in (tiny_shards, tiny_tables):
        out = tmp_path / source.name
        metrics = evaluate(run, source, "dev", out)
        assert metrics == json.loads((out / "metrics.json").read_text())
        for kind, block in reported.items():
            assert metrics[kind] == pytest.approx(block)
        assert {"run.trec", "qrels.trec", "metrics.json"} <= {path.name for path in out.iterdir()}


def test_numbers_are_those_counted_from_the_vectors(
    run: Path, tiny_tables: Path, tmp_path: Path
) -> None:
    block = evaluate(run, tiny_tables, "dev", tmp_path)["all"]
    assert block["queries"] == 12
    assert 0 < block["ndcg@10"] < 1
    hand = by_hand(run, tiny_tables, 10)
    assert block["ndcg@10"] == pytest.approx(hand["ndcg"], abs=1e-6)
    assert block["recall@10"] == pytest.approx(hand["recall"], abs=1e-6)
    assert block["mrr"] == pytest.approx(hand["mrr"], abs=1e-6)


def test_text_queries_are_what_the_query_tower_gives_to_the_last_bit(
    run: Path, tiny_tables: Path
) -> None:
    model, tokenizer = load_model(run)
    _, query_set = read_split(tiny_tables, "dev", model.settings.text_fields, 32)
    encoder = Encoder(model, tokenizer)
    found = encode_queries(encoder, query_set)
    tokens = tokenize(tokenizer, list(query_set.queries["query"]), 16, fixed=False)
    with torch.inference_mode():
        expected = model.encode_query(tokens).numpy()
    assert found.ids == list(query_set.queries["query_id"])
    assert np.array_equal(found.vectors, expected)
    in_parts = encode_queries(encoder, query_set, batch_size=5)
    np.testing.assert_allclose(in_parts.vectors, expected, atol=1e-6)
    assert in_parts.ids == found.ids


def test_products_by_one_modality_are_those_that_never_had_the_other(
    run: Path, tiny_tables: Path
) -> None:
    encoder = Encoder(*load_model(run))
    settings = encoder.model.settings
    catalogue, _ = read_split(tiny_tables, "dev", settings.text_fields, 32)
    samples = [catalogue.products[number] for number in range(len(catalogue.product_ids))]
    reduced = {
        "text": [sample._replace(image=None) for sample in samples],
        "image": [sample._replace(text="") for sample in samples],
    }
    for modality, products in reduced.items():
        never = catalogue._replace(products=products)
        expected = encode_products(encoder, never)["product"]
        found = encode_products(encoder, catalogue, modalities=(modality,))
        assert found["product"].ids == expected.ids
        assert len(expected.ids) == (24 if modality == "text" else 22)
        assert np.array_equal(found["product"].vectors, expected.vectors)


def test_a_further_grade_column_has_a_block_of_its_own(
    run: Path, tiny_tables: Path, tmp_path: Path
) -> None:
    desirable = tmp_path / "desirable"
    shutil.copytree(tiny_tables, desirable)
    qrels = pd.read_csv(desirable / "qrels.csv")
    # What has the higher relevance has the lower desirability.
    qrels["desirability"] = 3 - qrels["relevance"]
    qrels.to_csv(desirable / "qrels.csv", index=False)
    plain = evaluate(run, tiny_tables, "dev", tmp_path / "plain")["all"]
    both = evaluate(run, desirable, "dev", tmp_path / "both")["all"]
    assert both["ndcg@10"] == plain["ndcg@10"]
    assert both["desirability"]["ndcg@10"] != pytest.approx(plain["ndcg@10"])
    assert both["desirability"]["recall@10"] == plain["recall@10"]
    qrels["relevance"] = qrels.pop("desirability")
    qrels.to_csv(desirable / "qrels.csv", index=False)
    swapped = evaluate(run, desirable, "dev", tmp_path / "swapped")["all"]
    assert both["desirability"]["ndcg@10"] == swapped["ndcg@10"]


def test_a_single_modality_can_be_searched(run: Path, tiny_tables: Path, tmp_path: Path) -> None:
    blocks = {
        view: evaluate(run, tiny_tables, "dev", tmp_path / view, view)["all"]["ndcg@10"]
        for view in ("product", "text", "image")
    }
    assert len(set(blocks.values())) == 3


def test_evaluation_leaves_every_part_in_its_mode(run: Path) -> None:
    model, _ = load_model(run)
    model.train()
    model.image_tower.eval()
    before = [module.training for module in model.modules()]
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == before


def test_tables_whose_pictures_lie_elsewhere_are_not_measured_by_text_alone(
    tiny_tables: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_tables, tmp_path / "shop")
    pictures = sorted((tmp_path / "shop" / "images").glob("dev.*"))
    pictures[0].unlink()
    assert len(read_split(tmp_path / "shop", "dev", ["title"], 32)[0].product_ids) == 24
    # A page that was saved under the name of a picture is none either.
    pictures[1].write_text("<html>404</html>")
    assert len(read_split(tmp_path / "shop", "dev", ["title"], 32)[0].product_ids) == 24
    pictures[2].unlink()
    with pytest.raises(RejectError, match=r"products.csv: 3 of 48 rows rejected.* 2 picture missi"):
        read_split(tmp_path / "shop", "dev", ["title"], 32)


def test_judgments_that_are_lost_stop_a_measurement_as_they_stop_a_build(
    tiny_tables: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_tables, tmp_path / "shop")
    qrels = pd.read_csv(tmp_path / "shop" / "qrels.csv", dtype=str)
    qrels["product_id"] = qrels["product_id"] + ".0"
    qrels.to_csv(tmp_path / "shop" / "qrels.csv", index=False)
    with pytest.raises(RejectError, match=r"qrels.csv: 144 of 144 rows .*144 unknown product"):
        read_split(tmp_path / "shop", "dev", ["title"], 32)


def test_the_pool_is_the_split_or_the_whole_catalogue_and_is_said(
    run: Path, tiny_tables: Path, tmp_path: Path
) -> None:
    of_split = evaluate(run, tiny_tables, "dev", tmp_path / "split")["all"]
    whole = evaluate(run, tiny_tables, "dev", tmp_path / "all", pool="all")["all"]
    assert (of_split["products"], of_split["pool"]) == (24, "split")
    assert (whole["products"], whole["pool"]) == (48, "all")
    assert whole["ndcg@10"] < of_split["ndcg@10"]


def test_products_without_a_split_are_all_in_the_pool_of_tables_and_of_shards(
    tiny_tables: Path, tmp_path: Path
) -> None:
    shop = Path(shutil.copytree(tiny_tables, tmp_path / "shop"))
    products = pd.read_csv(shop / "products.csv", dtype=str, keep_default_na=False)
    products = products.drop(columns="split")
    unjudged = pd.DataFrame({"product_id": [f"new.{n}" for n in range(9)], "title": "vase"})
    pd.concat([products, unjudged]).fillna("").to_csv(shop / "products.csv", index=False)
    build_shards(shop, tmp_path / "shards", picture_size=40, workers=1)
    for folder in (shop, tmp_path / "shards"):
        catalogue, query_set = read_split(folder, "dev", ["title"], 32)
        assert catalogue.pool == "all"
        assert len(catalogue.product_ids) == len(set(catalogue.product_ids)) == 57
        assert len(query_set.queries) == 12
        ids = [catalogue.products[number].product_id for number in range(57)]
        assert ids == catalogue.product_ids
        judged, _ = read_split(folder, "dev", ["title"], 32, pool="split")
        assert len(judged.product_ids) == 24


def test_a_damaged_picture_stops_a_measurement_and_is_named(
    tiny_shards: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(tiny_shards, folder)
    path = folder / "dev-00000.tar"
    products = Split(folder, "dev", []).products
    places = ((number, products.place(number, "jpg")) for number in range(7))
    number, (_, picture) = next((number, place) for number, place in places if place)
    content = bytearray(path.read_bytes())
    content[picture.offset : picture.offset + picture.size] = bytes(picture.size)
    path.write_bytes(content)
    with pytest.raises(ShardError, match=r"dev-00000\.tar: damaged: SHA-256"):
        read_split(folder, "dev", ["title"], 32)
    sign(folder)
    catalogue, _ = read_split(folder, "dev", ["title"], 32)
    with pytest.raises(ShardError, match=rf"damaged sample {number}: picture unreadable"):
        catalogue.products[number]


def test_a_split_without_queries_is_refused(
    tiny_shards: Path, tiny_tables: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "tables"
    shutil.copytree(tiny_tables, bare)
    for name in ("queries.csv", "qrels.csv"):
        (bare / name).unlink()
    build_shards(bare, tmp_path / "shards", workers=1)
    with pytest.raises(TableError, match="'train' has no queries to evaluate"):
        read_split(tmp_path / "shards", "train", ["title"], 32)
    with pytest.raises(ShardError, match="no split 'test'; it has train, dev"):
        read_split(tiny_shards, "test", ["title"], 32)
    with pytest.raises(TableError, match=r"'test' has 0 products and 0 queries \(splits: dev, tra"):
        read_split(tiny_tables, "test", ["title"], 32)


def test_the_command_prints_a_table_and_says_mistakes_in_one_line(
    run: Path,
    tiny_tables: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    def call(*argv: str | Path) -> None:
        main([str(word) for word in argv])

    call(run, "--tables", tiny_tables)
    printed = capsys.readouterr().out
    metrics = json.loads((run / "eval-dev" / "metrics.json").read_text())
    assert f"{metrics['attribute']['ndcg@10']:.3f}" in printed
    assert "attribute" in printed
    call(run, "--tables", tiny_tables, "--view", "text")
    assert json.loads((run / "eval-dev" / "metrics.json").read_text()) == metrics
    assert (run / "eval-dev-text" / "metrics.json").is_file()
    for argv, expected in (
        ((tmp_path, "--tables", tiny_tables), "no finished model there"),
        ((run, "--tables", tmp_path / "nowhere"), "nowhere: "),
        ((run, "--tables", tiny_tables, "--split", "test"), "split 'test' has 0 products"),
        ((run, "--tables", tiny_tables, "--out", run), "--out: expected another folder than a run"),
    ):
        with pytest.raises(SystemExit, match=expected) as caught:
            call(*argv)
        assert str(caught.value).startswith("error: ")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a", "b"], "several runs: only with --scenarios, --missing, --hybrid or --others"),
        (["a", "b", "--missing"], "several runs: --out says where"),
        (["a", "--missing", "--scenarios"], "one at a time"),
        (["a", "--hybrid", "--missing"], "--missing and --hybrid: one at a time"),
        (["a", "--missing", "--view", "text"], "--view: --missing decides what is searched"),
        (["a", "--view", "trigger_text"], "invalid choice: 'trigger_text'"),
    ],
)
def test_words_that_contradict_each_other_are_told_before_anything_is_read(
    words: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit):
        main([*words, "--tables", "nowhere"])
    assert message in capsys.readouterr().err


def test_runs_go_by_their_folders_names_where_these_differ() -> None:
    assert names_of([Path("runs/a/stage3"), Path("runs/a/uniecs")]) == ["stage3", "uniecs"]
    same = [Path("runs/a/stage3"), Path("runs/b/stage3")]
    assert names_of(same) == ["a/stage3", "b/stage3"]
    assert names_of([*same, Path("runs/c")]) == ["a/stage3", "b/stage3", "c"]
    assert names_of([Path("/x/a"), Path("y/a")]) == ["/x/a", "y/a"]
    assert names_of([Path("a"), Path("a/a")]) == ["a", "a/a"]
    with pytest.raises(ValueError, match="given twice: x, y, x"):
        names_of([Path("x"), Path("y"), Path("x")])
