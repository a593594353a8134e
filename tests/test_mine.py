"""The command that mines hard negatives: what it finds, and what a run makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from beyond_text.config.load import load_config
from beyond_text.config.settings import ConfigError
from beyond_text.mine import main, splits_of
from beyond_text.retrieval import mining
from beyond_text.retrieval.encode import encode_products, encode_queries
from beyond_text.retrieval.run import load_run, train_for
from beyond_text.shards.hard_negatives import hard_negatives_of
from beyond_text.shards.mined import read_mined
from beyond_text.shards.sources import supplies_of
from beyond_text.shards.split import Split
from beyond_text.train import train
from beyond_text.training.datamodule import ShardData
from data_prep.shards import build_shards
from tests.conftest import COLOURS, KINDS, tiny_tokenizer
from tests.shards.web import serving

pytestmark = pytest.mark.slow

PRODUCTS, QUERIES = 60, 14
FIELDS = ["title", "category", "description"]


class Shop:
    """A shop in which products share designs, texts and pictures, and queries wordings."""

    def __init__(self, folder: Path) -> None:
        random = np.random.default_rng(3)
        folder.mkdir()
        for number in range(25):
            pixels = random.integers(0, 255, (30, 30, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
        words = [*COLOURS, *KINDS, "home", "decor", "a", "the"]
        titles = [" ".join(random.choice(words, 4)) for _ in range(30)]
        products = pd.DataFrame(
            {
                "product_id": [f"p{n:02}" for n in range(PRODUCTS)],
                # A wording of a title in capitals is the same text.
                "title": [titles[n % 30].upper() if n == 31 else titles[random.integers(30)]
                          for n in range(PRODUCTS)],
                "image": [f"{random.integers(25)}.png" if n % 7 else "" for n in range(PRODUCTS)],
                "group_id": [f"g{random.integers(40)}" for n in range(PRODUCTS)],
                "split": "train",
            }
        )  # fmt: skip
        queries = [
            (f"q{n:02}", " ".join(random.choice(words, 2)), "train", "", "") for n in range(QUERIES)
        ]
        # The words of q00 under another id, a picture alone, and a product that is a query.
        queries += [
            ("r0", queries[0][1].upper(), "train", "", ""),
            ("r1", "", "train", "3.png", ""),
            ("r2", products["title"][4], "train", "", "p04"),
            ("r3", "nothing is relevant", "train", "", ""),
            # The picture of r1 under another id.
            ("r4", "", "train", "3.png", ""),
        ]
        judged = {}
        for number, row in enumerate(queries):
            for place in random.permutation(PRODUCTS)[: 3 + number % 4]:
                judged[row[0], int(place)] = 0 if row[0] == "r3" else int(random.integers(0, 3))
            if row[0] != "r3":
                judged[row[0], number] = 2
        judged["q00", 50], judged["r0", 50] = 0, 1
        judged["q00", 51] = judged["r0", 51] = 0
        self.products = products
        self.queries = pd.DataFrame(
            queries, columns=["query_id", "query", "split", "image", "product_id"]
        )
        self.qrels = pd.DataFrame(
            [(query, f"p{place:02}", grade) for (query, place), grade in judged.items()],
            columns=["query_id", "product_id", "relevance"],
        )
        for name in ("products", "queries", "qrels"):
            getattr(self, name).to_csv(folder / f"{name}.csv", index=False)
        self.folder = folder
        self.shards = folder.with_name("shards")
        build_shards(
            folder, self.shards, picture_size=40, samples_per_shard=13, workers=1, max_rejected=1
        )


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory.mktemp("mine") / "tables")


def products_of(shards: Path) -> list[str]:
    split = Split(shards, "train", FIELDS)
    return [split.read(sample, None)[0]["product_id"] for sample in range(len(split))]


def mined_ids(folder: Path, shards: Path) -> dict[str, list[str]]:
    """Returns the product_ids that were mined for each query_id."""
    products = products_of(shards)
    asked = Split(shards, "train", FIELDS).asked
    rows = np.load(folder / "mined-train.npy")
    assert len(rows) == len(asked)
    return {
        asked[number].query_id: [products[sample] for sample in row if sample >= 0]
        for number, row in enumerate(rows)
    }


def expected(shop: Shop, run: Path, top: int, below: float, best: bool) -> tuple[dict, dict, int]:
    """Mines by hand, query by query; also returns all scores, and the number of judged zeros."""
    encoder = replace(load_run(run), workers=0)
    catalogue, query_set = train_for(encoder.model, shop.shards)
    products = encode_products(encoder, catalogue)["product"]
    queries = encode_queries(encoder, query_set)
    wording = {
        row.query_id: (" ".join(str(row.query).lower().split()), row.image)
        for row in shop.queries.fillna("").itertuples()
    }
    own = dict(zip(shop.queries["query_id"], shop.queries["product_id"], strict=True))
    grades: dict[str, dict[str, int]] = {}
    for row in shop.qrels.itertuples():
        for query, words in wording.items():
            if words == wording[row.query_id] and own[row.query_id] != row.product_id:
                known = grades.setdefault(query, {})
                known[row.product_id] = max(known.get(row.product_id, 0), row.relevance)
    table = shop.products.set_index("product_id")
    found: dict[str, list[str]] = {}
    scores: dict[str, dict[str, float]] = {}
    refused = 0
    vectors = dict(zip(queries.ids, queries.vectors, strict=True))
    for query in queries.ids:
        # The first of the queries of one wording stands for all.
        vector = vectors[next(q for q in queries.ids if wording[q] == wording[query])]
        score = dict(zip(products.ids, (products.vectors @ vector).tolist(), strict=True))
        scores[query] = score
        judged = grades.get(query, {})
        positives = [product for product, grade in judged.items() if grade > 0]
        if not positives:
            found[query] = []
            continue
        limit = (max if best else min)(score[product] for product in positives)
        limit -= (1 - below) * abs(limit)
        # A query that is a product is all others of its picture, too.
        same = table["image"] == table["image"].get(own[query], "none")
        itself = {*table.index[same], *filter(None, [own[query]])} - judged.keys()
        likes = table.loc[[*positives, *itself]]
        zeros = [product for product, grade in judged.items() if grade == 0]
        refused += min(top, len(zeros))
        others = [
            product
            for product, row in table.iterrows()
            if product not in judged
            and product not in itself
            and score[product] < limit
            and row["group_id"] not in set(likes["group_id"])
            and row["title"].lower() not in {title.lower() for title in likes["title"]}
            and (not row["image"] or row["image"] not in set(likes["image"]))
        ]
        ranked = [sorted(part, key=score.__getitem__, reverse=True) for part in (zeros, others)]
        found[query] = [product for part in ranked for product in part][:top]
    return found, scores, refused


@pytest.mark.parametrize("block", [1, 3, 2**14])
@pytest.mark.parametrize("against", ["lowest", "best"])
def test_what_is_mined_is_what_counting_by_hand_gives(
    shop: Shop,
    tiny_run: Path,
    against: str,
    block: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(mining, "ENCODED", block)
    monkeypatch.setattr(mining, "SCORES", PRODUCTS * 2)
    words = ["--shards", shop.shards, "--out", tmp_path, "--top", 8, "--below", 0.99]
    main([str(tiny_run), *map(str, words), "--against", against])
    found = mined_ids(tmp_path, shop.shards)
    wanted, scores, refused = expected(shop, tiny_run, 8, 0.99, against == "best")
    assert found.keys() == wanted.keys()
    assert any(found.values())
    assert found["r3"] == []
    assert found["r0"] == found["q00"]
    assert found["r4"] == found["r1"]
    for query, products in wanted.items():
        # Products of equal vectors may come in any order.
        one, other = ([scores[query][p] for p in ids] for ids in (found[query], products))
        assert one == pytest.approx(other, abs=1e-6), query
        assert len(set(found[query])) == len(found[query])
    record = json.loads((tmp_path / "mined.json").read_text())
    assert record["queries"] == sum(map(bool, found.values()))
    assert record["products"] == sum(map(len, found.values()))
    zeros = shop.qrels[shop.qrels["relevance"] == 0]
    assert record["judged_zero"] == refused > 0
    assert found["q01"][0] in set(zeros[zeros["query_id"] == "q01"]["product_id"])
    assert f"{record['products']:,}" in capsys.readouterr().out


def test_no_more_are_mined_than_there_are(shop: Shop, tiny_run: Path, tmp_path: Path) -> None:
    main([str(tiny_run), "--shards", str(shop.shards), "--out", str(tmp_path), "--top", "1000000"])
    most = len(Split(shop.shards, "train", ["title"]))
    assert json.loads((tmp_path / "mined.json").read_text())["top"] == most
    assert read_mined(tmp_path, Split(shop.shards, "train", ["title"])).shape[1] == most


@pytest.fixture
def settings(tiny_settings: list[str], shop: Shop, tmp_path: Path) -> Callable[..., Any]:
    def make(name: str, *words: str) -> Any:
        base = [f"data.sources.tables.path={shop.shards}", f"data.dev={shop.shards}"]
        base += ["data.dev_split=train", "losses.query_product=1", "data.negatives=0.5"]
        return load_config([], [*tiny_settings, *base, f"run={tmp_path / name}", *words])

    return make


@pytest.fixture
def mined(shop: Shop, tiny_run: Path) -> Iterator[Path]:
    """What was mined, beside the shards."""
    main([str(tiny_run), "--shards", str(shop.shards), "--top", "6"])
    yield shop.shards
    for name in ("mined.json", "mined-train.npy"):
        (shop.shards / name).unlink(missing_ok=True)


def test_a_run_takes_what_was_mined_and_records_it(
    settings: Callable[..., Any], mined: Path, tmp_path: Path
) -> None:
    config = settings("run", "data.hard_negatives=2", "steps=2")
    train(config)
    inputs = json.loads((tmp_path / "run" / "inputs.json").read_text())
    assert inputs.keys() == {"data.sources.tables", "data.sources.tables.mined", "data.dev"}
    train(settings("without", "steps=2"))
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes()
               for name in ("run", "without")]  # fmt: skip
    assert weights[0] != weights[1]
    inputs = json.loads((tmp_path / "without" / "inputs.json").read_text())
    assert inputs.keys() == {"data.sources.tables", "data.dev"}


def test_a_batch_holds_products_that_were_mined_for_its_queries(
    settings: Callable[..., Any], mined: Path, tiny_run: Path
) -> None:
    config = settings("run", "data.hard_negatives=2")
    model = load_run(tiny_run).model
    data = ShardData(config, model.settings, tiny_tokenizer(), False)
    trainer: Any = type("At", (), {"global_rank": 0, "world_size": 1, "global_step": 0})
    rows = np.load(mined / "mined-train.npy")
    held = asked = 0
    for batch in data._batch_sampler(trainer):
        samples = {index.sample for index in batch}
        for index in batch:
            if index.query >= 0 and (rows[index.query] >= 0).any():
                asked += 1
                held += bool(samples & set(rows[index.query].tolist()))
    assert asked > 8
    assert held > 0.7 * asked


def test_what_was_mined_of_other_shards_stops_the_run(
    settings: Callable[..., Any], mined: Path
) -> None:
    record = json.loads((mined / "mined.json").read_text())
    (mined / "mined.json").write_text(json.dumps(record | {"manifest": "0" * 64}))
    with pytest.raises(ValueError, match="mined of other shards than those now in"):
        train(settings("run", "data.hard_negatives=2"))


def test_a_run_without_mined_negatives_or_room_for_them_says_so(
    settings: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="no source has mined negatives; make it with"):
        train(settings("run", "data.hard_negatives=2"))
    folder = f"data.sources.tables.mined={tmp_path / 'elsewhere'}"
    with pytest.raises(ValueError, match=r"elsewhere/mined.json: No such file"):
        train(settings("run", "data.hard_negatives=2", folder))
    for words, message in {
        ("data.hard_negatives=2", "data.negatives=0"): "data.negatives, the share of a batch",
        ("data.hard_negatives=2", "batch_size=3", "data.negatives=0.3"): "no whole product",
        ("data.hard_negatives=2", "losses.query_product=0", "losses.text_image=1"): "with queries",
        ("data.hard_negatives=-1",): "expected a value from 0",
        ("data.sources.tables.mined=x",): "only data.hard_negatives reads it",
        ("data.hard_negatives=2", "data.sources.tables.mined=s3://a/b"): "folder of this machine",
        ("data.hard_negatives=2", folder, "data.sources.tables.weight=0"): "its weight is 0",
        ("data.hard_negatives=2", folder, "data.sources.tables.losses=[text_image]"): "no queries",
    }.items():
        with pytest.raises(ConfigError, match=message):
            settings("run", *words)


def test_a_run_goes_on_only_with_what_it_began_with(
    settings: Callable[..., Any], mined: Path, shop: Shop, tiny_run: Path
) -> None:
    from beyond_text.training.inputs import check_inputs, write_inputs

    config = settings("run", "data.hard_negatives=2")
    Path(config.run).mkdir()
    write_inputs(config)
    check_inputs(config)
    main([str(tiny_run), "--shards", str(shop.shards), "--top", "5"])
    with pytest.raises(ConfigError, match=r"what data.sources.tables.mined held when"):
        check_inputs(config)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--source", "shop"], "--source: expected one of tables, got 'shop'"),
        (["--shards", "s3://bucket/shop"], "expected --out FOLDER"),
        (["--shards", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_mined_is_one_line(
    words: list[str], message: str, tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([str(tiny_run), *words])
    assert str(stop.value.code).startswith("error: ")
    assert message in str(stop.value.code)
    assert "\n" not in str(stop.value.code)


@pytest.mark.parametrize("words", [["--top", "0"], ["--below", "0"], ["--below", "1.1"],
                                   ["--source", "a", "--shards", "b"]])  # fmt: skip
def test_options_out_of_range_are_refused(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path), *words])
    assert stop.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_a_runs_own_sources_are_mined_beside_their_shards_or_in_a_folder(
    settings: Callable[..., Any], tiny_run: Path, tiny_shards: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    main([str(tiny_run), "--source", "tables", "--out", str(out), "--top", "3"])
    assert np.load(out / "mined-train.npy").shape == (12, 3)
    assert not (tiny_shards / "mined.json").exists()
    config = settings(
        "run",
        f"data.sources.tables.path={tiny_shards}",
        f"data.sources.tables.mined={out}",
        "data.hard_negatives=1",
        "steps=1",
    )
    train(config)
    assert "data.sources.tables.mined" in json.loads((tmp_path / "run" / "inputs.json").read_text())


def test_shards_of_two_sources_are_mined_for_the_one_that_sees_more(
    settings: Callable[..., Any], shop: Shop, tmp_path: Path
) -> None:
    for labels, others, seen in (("6", "2", 6), ("2", "6", 6), ("2", "null", None), ("0", "3", 3)):
        words = [f"data.sources.b.path={shop.shards}", f"data.sources.b.labels={others}"]
        config = settings("run", f"data.sources.tables.labels={labels}", *words)
        (split,) = splits_of(config.data.sources, config.data, tmp_path).values()
        assert split.labels == seen


def test_a_source_at_a_url_without_queries_is_left_out(
    settings: Callable[..., Any], shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(shop.shards) as web:
        for labels in ("0", "3"):
            words = [f"data.sources.b.path={web.url}", f"data.sources.b.labels={labels}"]
            config = settings("run", *words)
            if labels == "0":
                assert list(splits_of(config.data.sources, config.data, None)) == [shop.shards]
                assert "source b: no judged queries" in capsys.readouterr().out
            else:
                with pytest.raises(ConfigError, match="nothing is written to a URL"):
                    splits_of(config.data.sources, config.data, None)


def test_only_queries_that_training_keeps_are_mined_and_used(
    settings: Callable[..., Any], shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(settings("few", "data.labels=5", "steps=1"))
    main([str(tmp_path / "few"), "--out", str(tmp_path / "out"), "--top", "4"])
    rows = np.load(tmp_path / "out" / "mined-train.npy")
    is_mined = (rows >= 0).any(axis=1)
    # Nothing may score below the positives of a query that is kept.
    assert is_mined.any()
    assert not (is_mined & ~Split(shop.shards, "train", FIELDS, labels=5).kept().rows).any()
    words = ["data.hard_negatives=2", f"data.sources.tables.mined={tmp_path / 'out'}"]
    config = settings("run", *words, "data.labels=3")
    hard = hard_negatives_of(config, supplies_of(config))["tables"]
    kept = Split(shop.shards, "train", FIELDS, labels=3).kept().rows
    assert set(hard.query.tolist()) == set(np.flatnonzero(kept).tolist())
    # A run that sees more queries is told that some have none.
    capsys.readouterr()
    config = settings("all", *words)
    hard = hard_negatives_of(config, supplies_of(config))["tables"]
    said = f"negatives were mined for {is_mined.sum()} of {len(set(hard.query.tolist()))} queries"
    assert said in capsys.readouterr().err
