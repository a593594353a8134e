"""Tests that the four rankings are scored as by hand, and the weight is tuned on train alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from beyond_text.evaluate import evaluate, main
from beyond_text.evaluation.hybrid import (
    METHODS,
    NOTE,
    SEED,
    TUNED_ON,
    Scores,
    _sample,
    chart,
    markdown,
    measure,
)
from beyond_text.models.checkpoint import save_model
from beyond_text.retrieval.encode import Encoder, encode_products, encode_queries
from beyond_text.retrieval.hybrid import reciprocal_rank_fusion, weighted
from beyond_text.retrieval.lexical import Lexical, searched_text
from beyond_text.retrieval.query_set import QuerySet
from beyond_text.retrieval.read_split import read_split
from tests.conftest import tiny_tokenizer
from tests.evaluation.test_scenarios import tiny_model

FIELDS = ["title", "category", "description"]


@pytest.fixture(scope="module")
def encoder(tiny_text_encoder: Path, tiny_image_encoder: Path) -> Encoder:
    return Encoder(tiny_model(tiny_text_encoder, tiny_image_encoder), tiny_tokenizer())


@pytest.fixture(scope="module")
def scores(encoder: Encoder, tiny_shards: Path) -> Scores:
    train = read_split(tiny_shards, "train", FIELDS, 32)
    return measure(encoder, *read_split(tiny_shards, "dev", FIELDS, 32), train)


def ndcg(order: list[str], grades: dict[str, float]) -> float:
    gains = [(2 ** grades.get(name, 0) - 1) / np.log2(n + 2) for n, name in enumerate(order[:10])]
    best = sorted(grades.values(), reverse=True)[:10]
    return sum(gains) / sum((2**g - 1) / np.log2(n + 2) for n, g in enumerate(best))


def test_every_ranking_is_that_of_all_products(
    encoder: Encoder, scores: Scores, tiny_shards: Path
) -> None:
    catalogue, query_set = read_split(tiny_shards, "dev", FIELDS, 32)
    products = encode_products(encoder, catalogue)["product"]
    order = np.argsort(products.ids)[::-1]
    ids = [products.ids[place] for place in order]
    texts = [searched_text(*catalogue.products.describe(place)[:3]) for place in order]  # type: ignore[attr-defined]
    lexical = Lexical.build(texts)
    queries = encode_queries(encoder, query_set)
    asked = query_set.queries.set_index("query_id")["query"]
    assert set(scores["ndcg@10"]) == set(METHODS)
    for query_id, vector in zip(queries.ids, queries.vectors, strict=True):
        own = query_set.qrels[query_set.qrels["query_id"] == query_id]
        grades = dict(zip(own["product_id"], own["relevance"], strict=True))
        cosines = products.vectors[order] @ vector
        words = lexical.scores(asked[query_id])
        by_words = [n for n in np.argsort(-words, kind="stable") if words[n] > 0]
        by_vectors = np.argsort(-cosines, kind="stable")
        both = weighted(cosines, words, scores["weight"])
        expected = {
            "vector": by_vectors,
            "bm25": by_words,
            "weighted": np.argsort(-both, kind="stable"),
            "rrf": reciprocal_rank_fusion([by_vectors, np.array(by_words, dtype=np.int64)])[1],
        }
        for method, places in expected.items():
            value = ndcg([ids[place] for place in places], grades)
            assert scores["ndcg@10"][method][query_id] == pytest.approx(value, abs=1e-6), method


def test_the_weight_is_the_best_on_train_queries_among_train_products(
    encoder: Encoder, scores: Scores, tiny_shards: Path
) -> None:
    catalogue, query_set = read_split(tiny_shards, "train", FIELDS, 32)
    tuned = scores["tuned"]
    assert tuned["products"] == len(catalogue.product_ids)
    assert tuned["queries"] == query_set.qrels["query_id"].nunique() <= TUNED_ON
    assert tuned["seed"] == SEED
    means = {float(weight): mean for weight, mean in tuned["ndcg@10"].items()}
    assert max(means, key=lambda weight: (means[weight], weight)) == scores["weight"]
    # At weight 1 it is the evaluation's number of the same queries.
    again = measure(encoder, catalogue, query_set, (catalogue, query_set))
    assert means[1.0] == pytest.approx(np.mean(list(again["ndcg@10"]["vector"].values())), abs=1e-6)
    best = np.mean(list(again["ndcg@10"]["weighted"].values()))
    assert means[scores["weight"]] == pytest.approx(best, abs=1e-6)


def test_train_is_the_same_of_shards_and_of_tables(tiny_shards: Path, tiny_tables: Path) -> None:
    found = []
    for folder in (tiny_shards, tiny_tables):
        catalogue, query_set = read_split(folder, "train", FIELDS, 32, 40, "split")
        products = catalogue.products
        searched = [
            searched_text(*products.describe(n)[:3]) for n in range(len(catalogue.product_ids))
        ]  # type: ignore[attr-defined]
        queries = query_set.queries[["query_id", "query", "kind", "product_id"]]
        found.append(
            (
                dict(zip(catalogue.product_ids, searched, strict=True)),
                set(queries.itertuples(index=False, name=None)),
                set(
                    query_set.qrels[["query_id", "product_id", "relevance"]].itertuples(False, None)
                ),
            )
        )
        judged = query_set.qrels[query_set.qrels["relevance"] > 0]
        assert set(judged["product_id"]) <= set(catalogue.product_ids)
    products, queries, qrels = zip(*found, strict=True)
    assert products[0] == products[1]
    assert qrels[0] == qrels[1]
    # Queries without a judgment stand in tables alone.
    judged = {query_id for query_id, *_ in qrels[0]}
    assert queries[0] == {query for query in queries[1] if query[0] in judged}


def test_kinds_have_equal_shares_of_the_sample() -> None:
    kinds = ["a"] * 5000 + ["b"] * 500 + ["c"] * 20
    ids = [f"q{number}" for number in range(len(kinds))]
    queries = pd.DataFrame({"query_id": ids, "query": "x", "kind": kinds, "product_id": ""})
    query_set = QuerySet(queries, pd.DataFrame(), int)  # type: ignore[arg-type]
    drawn = _sample(query_set, set(ids))
    assert drawn.queries["kind"].value_counts().to_dict() == {"a": 290, "b": 290, "c": 20}
    # A query keeps its picture.
    numbers = [drawn.query_image(place) for place in range(len(drawn.queries))]
    assert [f"q{number}" for number in numbers] == drawn.queries["query_id"].tolist()
    assert _sample(query_set, {"q3", "q5400"}).queries["query_id"].tolist() == ["q3", "q5400"]


def test_words_are_searched_in_id_text_and_further_columns_but_not_in_amounts() -> None:
    further = {"sku": "AB-1", "price": "20", "sale": "19.99", "in_stock": "true", "gtin": "400638",
               "size": "20 cm", "colour": "No"}  # fmt: skip
    assert searched_text("p1", "Vase", further) == "p1\nVase\nAB-1\n400638\n20 cm"
    # What the text says already is left out; a word that is part of another is not said.
    text, colours = "Cushion. Covered in linen", {"colour": "red", "fabric": "linen"}
    assert searched_text("p1", text, colours) == f"p1\n{text}\nred"


def test_the_table_has_every_ranking_kind_and_difference(scores: Scores) -> None:
    text = markdown({"run": scores})
    lines = text.splitlines()
    assert lines[0].startswith("| run | all (")
    for words in METHODS.values():
        assert any(line.startswith(f"| {words} | ") for line in lines)
    mean = np.mean(list(scores["ndcg@10"]["bm25"].values()))
    assert f"| words alone | {mean:.3f} [" in text
    difference = next(line for line in lines if line.startswith("| weighted sum less vectors"))
    both, vector = (np.array(list(scores["ndcg@10"][m].values())) for m in ("weighted", "vector"))
    assert f"| {(both - vector).mean():+.3f} [" in difference
    assert ", p " in difference
    assert f"run: weight {scores['weight']:g}, tuned on" in text
    assert NOTE in text


def test_the_command_writes_what_an_index_can_take(
    encoder: Encoder, scores: Scores, tiny_shards: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    run = tmp_path / "run"
    save_model(encoder.model, encoder.tokenizer, run)
    (run / "metrics.json").write_text("{}")
    out = tmp_path / "out"
    main([str(run), "--tables", str(tiny_shards), "--hybrid", "--out", str(out)])
    printed = capsys.readouterr().out
    assert (out / "hybrid.md").read_text().splitlines()[0] in printed
    assert json.loads((out / "hybrid.json").read_text())["run"]["weight"] == scores["weight"]
    with Image.open(out / "hybrid.png") as picture:
        assert picture.format == "PNG"
    # Vectors alone are what the plain evaluation measures, but for products that are as near.
    metrics = evaluate(run, tiny_shards, "dev", tmp_path / "plain")
    mean = np.mean(list(scores["ndcg@10"]["vector"].values()))
    assert metrics["all"]["ndcg@10"] == pytest.approx(mean, abs=0.005)
    assert len(chart({"run": scores, "other": scores}).axes) == 2


def test_without_train_queries_it_is_refused_in_one_line(encoder: Encoder, tmp_path: Path) -> None:
    run = tmp_path / "run"
    save_model(encoder.model, encoder.tokenizer, run)
    (run / "metrics.json").write_text("{}")
    shop = tmp_path / "shop"
    shop.mkdir()
    (shop / "products.csv").write_text("product_id,title,split\na,Vase,dev\nb,Rug,dev\n")
    (shop / "queries.csv").write_text("query_id,query,split\nq,vase,dev\n")
    (shop / "qrels.csv").write_text("query_id,product_id,relevance\nq,a,1\n")
    with pytest.raises(SystemExit, match=r"error: .*split 'train' has 0 products and 0 queries"):
        main([str(run), "--tables", str(shop), "--hybrid", "--out", str(tmp_path / "out")])
