"""The scores of the nine scenarios equal those of a ranking by hand, query by query."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer

from beyond_text.config.load import load_config
from beyond_text.evaluate import main
from beyond_text.evaluation.scenarios import (
    MEASURED,
    NOTE,
    SIDES,
    Scores,
    _needs,
    chart,
    markdown,
    measure,
)
from beyond_text.metrics.ranking import check_ranking
from beyond_text.metrics.significance import compare_paired, in_words
from beyond_text.models.checkpoint import save_model
from beyond_text.models.settings import settings_of
from beyond_text.models.two_tower import TwoTower, build_model
from beyond_text.retrieval.catalogue import Catalogue
from beyond_text.retrieval.encode import Encoder, Queries, Vectors, collate_for, encode_queries
from beyond_text.retrieval.query_set import QuerySet
from beyond_text.retrieval.ranking import own_products, search
from beyond_text.shards.batch import Judgment, Sample
from tests.conftest import COLOURS, KINDS, tiny_tokenizer, write_tiny_tables

SCENARIOS = [f"{asked}->{found}" for asked in SIDES for found in SIDES]


def tiny_model(text: Path, image: Path, fusion: str = "bilinear") -> TwoTower:
    """Returns an untrained model whose fusion is not the plain sum."""
    torch.manual_seed(1)
    overrides = [
        f"text_encoder.path={text}", "text_encoder.max_length=16", f"image_encoder.path={image}",
        "image_encoder.image_size=32", "dim=16", "fusion_rank=8", f"fusion={fusion}",
    ]  # fmt: skip
    settings = settings_of(load_config([], overrides), picture_size=40)
    model = build_model(settings, str(text), str(image), pretrained=True).eval()
    with torch.no_grad():
        for parameter in model.fusion.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def pictures(number: int) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    shape = (number, 3, 32, 32)
    return list(torch.randint(0, 256, shape, generator=random, dtype=torch.uint8))


def tiny_split() -> tuple[Catalogue, QuerySet]:
    """Returns twelve products and ten queries; some lack the text, some the picture."""
    texts = [f"{'a ' * (n % 2)}{colour} {kind}" for n, (colour, kind) in enumerate(
        (colour, kind) for colour in COLOURS for kind in KINDS)]  # fmt: skip
    shown = pictures(22)
    products = [
        Sample(
            f"p{n}",
            "" if n in (1, 6) else texts[n],
            None if n in (2, 7, 11) else shown[n],
            [],
            None,
        )
        for n in range(12)
    ]
    asked = [("" if n in (3, 8) else texts[(5 * n) % 12] + " home") for n in range(10)]
    queries = pd.DataFrame({
        "query_id": [f"q{n}" for n in range(10)],
        "query": asked,
        "kind": ["a", "b"] * 5,
        # q4 and q5 are themselves products of the catalogue.
        "product_id": ["", "", "", "", "p4", "p7", "", "", "", ""],
    })  # fmt: skip
    judged = [(f"q{n}", f"p{p}", 1 + (n + p) % 2) for n in range(9) for p in (n, (3 * n + 1) % 12)]
    qrels = pd.DataFrame(judged, columns=["query_id", "product_id", "relevance"])
    qrels = qrels.drop_duplicates(["query_id", "product_id"])
    seen = {n: None if n in (0, 5, 9) else shown[12 + n] for n in range(10)}
    # q2 has one relevant product, p2, which has no picture; p4 is not relevant to q4, which is p4.
    qrels = qrels[~((qrels.query_id == "q2") & (qrels.product_id != "p2"))]
    qrels = qrels[~qrels.set_index(["query_id", "product_id"]).index.isin([("q4", "p4")])]
    catalogue = Catalogue(products, [sample.product_id for sample in products])
    return catalogue, QuerySet(queries, qrels, seen.get)


def alone(model: TwoTower, sample: Sample, view: str) -> np.ndarray:
    """Returns the vector of one sample, encoded in a batch of its own."""
    with torch.inference_mode():
        batch = collate_for(model, tiny_tokenizer())([sample])
        return model.embed(batch, (view,)).vectors[view][0].float().numpy()


def by_hand(
    model: TwoTower, catalogue: Catalogue, query_set: QuerySet, asked: str, found: str
) -> dict[str, float]:
    """Computes recall and nDCG of one scenario from their definitions, query by query."""
    products = {}
    for sample in catalogue.products:
        text = sample.text if "text" in found else ""
        image = sample.image if "image" in found else None
        if text or image is not None:
            kept = sample._replace(text=text, image=image)
            products[sample.product_id] = alone(model, kept, "product")
    values: dict[str, list[float]] = {name: [] for name in MEASURED}
    for number, row in enumerate(query_set.queries.to_dict("records")):
        text = row["query"] if "text" in asked else ""
        image = query_set.query_image(number) if "image" in asked else None
        own = query_set.qrels[query_set.qrels["query_id"] == row["query_id"]]
        grades = dict(zip(own["product_id"], own["relevance"], strict=True))
        if not (text or image is not None) or not grades:
            continue
        judgment = Judgment(row["query_id"], text, "a")
        query = alone(model, Sample("", "", None, [], judgment, 0, image), "query")
        scores = {p: float(v @ query) for p, v in products.items() if p != row["product_id"]}
        order = sorted(scores, key=lambda p: -scores[p])
        gains = [2 ** grades.get(p, 0) - 1 for p in order]
        best = sorted((2**g - 1 for g in grades.values()), reverse=True)
        dcg, ideal = (
            sum(gain / math.log2(place + 2) for place, gain in enumerate(row[:10]))
            for row in (gains, best)
        )
        values["ndcg@10"].append(dcg / ideal)
        for depth in (1, 10):
            values[f"recall@{depth}"].append(len(set(order[:depth]) & set(grades)) / len(grades))
    means = {name: float(np.mean(column)) for name, column in values.items()}
    return means | {"queries": len(values["ndcg@10"])}


@pytest.mark.parametrize("fusion", ["bilinear", "uniecs"])
def test_the_nine_scenarios_equal_a_ranking_by_hand(
    tiny_text_encoder: Path, tiny_image_encoder: Path, fusion: str
) -> None:
    model = tiny_model(tiny_text_encoder, tiny_image_encoder, fusion)
    catalogue, query_set = tiny_split()
    scores = measure(Encoder(model, tiny_tokenizer()), catalogue, query_set)
    assert list(scores) == SCENARIOS
    for scenario, block in scores.items():
        values = [value for _, value in block.pop("by_query").values()]
        assert len(values) == block["queries"]
        assert np.mean(values) == pytest.approx(block["ndcg@10"])
        assert block == pytest.approx(
            by_hand(model, catalogue, query_set, *scenario.split("->")), abs=1e-6
        )
    # Nine queries are judged: two of them lack a text, two others a picture.
    numbers = [scores[f"{side}->text"]["queries"] for side in SIDES]
    assert numbers == [7, 7, 9]
    assert len({block["ndcg@10"] for block in scores.values()}) == 9


def test_a_query_by_one_modality_is_as_if_it_had_never_had_the_other(
    tiny_text_encoder: Path, tiny_image_encoder: Path
) -> None:
    model = tiny_model(tiny_text_encoder, tiny_image_encoder)
    encoder = Encoder(model, tiny_tokenizer())
    _, query_set = tiny_split()
    blind = query_set._replace(query_image=lambda number: None)
    silent = query_set._replace(queries=query_set.queries.assign(query=""))
    for modality, other in (("text", blind), ("image", silent)):
        got = encode_queries(encoder, query_set, (modality,))
        expected = encode_queries(encoder, other)
        assert got.ids == expected.ids
        assert 0 < len(got.ids) < 10
        assert np.array_equal(got.vectors, expected.vectors)
    assert len(encode_queries(encoder, query_set).ids) == 10
    sample = Queries(query_set, ("image",))[1]
    assert (sample.text, sample.image, sample.query.query) == ("", None, "")
    assert sample.query_image is query_set.query_image(1)


def test_a_querys_own_product_is_no_result() -> None:
    products = Vectors(["a", "b", "c"], np.eye(3, dtype=np.float32))
    queries = Vectors(
        ["is a", "is none", "is elsewhere"],
        np.array([[0.8, 0.6, 0.0], [0.8, 0.6, 0.0], [0.6, 0.0, 0.8]], dtype=np.float32),
    )
    own = {"is a": {"a"}, "is elsewhere": {"gone"}}
    short = search(queries, products, own, depth=2)
    check_ranking(short)
    assert short.product_ids == [["b", "c"], ["a", "b"], ["c", "a"]]
    assert short.scores.tolist() == np.float32([[0.6, 0], [0.8, 0.6], [0.8, 0.6]]).tolist()
    whole = search(queries, products, own, depth=5)
    check_ranking(whole)
    # All rows have one length: where every product is listed, the query's own comes last.
    assert whole.product_ids == [["b", "c", "a"], ["a", "b", "c"], ["c", "a", "b"]]
    assert whole.scores[0, 2] < -1
    assert search(queries, products, {}, depth=1).product_ids == [["a"], ["a"], ["c"]]
    twins = search(queries, products, {"is a": {"a", "b"}}, depth=2)
    check_ranking(twins)
    assert twins.product_ids == [["c", "a"], ["a", "b"], ["c", "a"]]
    assert twins.scores[0, 1] < -1


def test_products_of_the_picture_that_a_query_shows_are_its_own() -> None:
    red, blue = torch.zeros(3, 2, 2, dtype=torch.uint8), torch.ones(3, 2, 2, dtype=torch.uint8)
    # The same bytes in another shape are another picture.
    pictures = {"a": red, "b": blue, "c": red.clone(), "d": None, "e": red.reshape(3, 4, 1)}
    products = [Sample(name, "", picture, [], None) for name, picture in pictures.items()]
    queries = pd.DataFrame(
        {"query_id": ["is a", "is d", "is none"], "query": "x", "kind": "pair",
         "product_id": ["a", "d", ""]}
    )  # fmt: skip
    catalogue, query_set = Catalogue(products, list(pictures)), QuerySet(queries, pd.DataFrame())
    assert own_products(catalogue, query_set) == {"is a": {"a", "c"}, "is d": {"d"}}
    assert own_products(catalogue, query_set._replace(queries=queries.tail(1))) == {}


def test_nothing_to_search_or_to_ask_is_an_empty_ranking() -> None:
    none = Vectors([], np.zeros((0, 3), dtype=np.float32))
    some = Vectors(["a"], np.eye(1, 3, dtype=np.float32))
    for queries, products in ((none, some), (some, none), (none, none)):
        found = search(queries, products, {})
        check_ranking(found)
        assert found.query_ids == []


def test_queries_without_any_picture_are_refused(
    tiny_text_encoder: Path, tiny_image_encoder: Path
) -> None:
    model = tiny_model(tiny_text_encoder, tiny_image_encoder)
    catalogue, query_set = tiny_split()
    query_set = query_set._replace(query_image=lambda number: None)
    with pytest.raises(ValueError, match=r"none of 10 queries has a picture: .* --scenarios PAIRS"):
        measure(Encoder(model, tiny_tokenizer()), catalogue, query_set)


def test_a_scenario_that_no_query_has_is_left_blank(
    tiny_text_encoder: Path, tiny_image_encoder: Path
) -> None:
    model = tiny_model(tiny_text_encoder, tiny_image_encoder)
    catalogue, query_set = tiny_split()
    query_set = query_set._replace(queries=query_set.queries.assign(query=""))
    scores = measure(Encoder(model, tiny_tokenizer()), catalogue, query_set)
    assert scores["text->image"] == {"queries": 0}
    assert scores["text+image->image"] == scores["image->image"]
    assert "| text | 0 | - | - | - |" in markdown({"run": scores})
    assert "-" in {text.get_text() for text in chart({"run": scores}).axes[0].texts}


def made_up(factor: float) -> Scores:
    return {
        scenario: {"recall@1": factor * n, "recall@10": 0.01 * n, "ndcg@10": 0.0, "queries": 5}
        for n, scenario in enumerate(SCENARIOS)
    }


def test_tables_of_several_runs_stand_side_by_side() -> None:
    lines = markdown({"one": made_up(0.1), "two": made_up(0.05)}).splitlines()
    assert lines[0] == (
        "| recall@1 | queries | one: text | one: image | one: text+image "
        "| two: text | two: image | two: text+image |"
    )
    assert lines[1].count("|") == lines[0].count("|") == 9
    assert lines[2] == "| text | 5 | 0.000 | 0.100 | 0.200 | 0.000 | 0.050 | 0.100 |"
    assert lines[4] == "| text+image | 5 | 0.600 | 0.700 | 0.800 | 0.300 | 0.350 | 0.400 |"
    assert [line.split(" | ")[0] for line in lines if "queries |" in line] == [
        f"| {name}" for name in MEASURED
    ]
    assert lines[-1] == NOTE


def test_differences_are_paired_by_query_over_designs() -> None:
    # Two designs: a is a query for b, and b for a; c is one for d and e, and d for c.
    queries = pd.DataFrame({"query_id": [*"pqrs"], "query": "x", "kind": "pair"})
    queries["product_id"] = [*"abcd"]
    qrels = pd.DataFrame(
        {"query_id": [*"pqrrsp"], "product_id": [*"badecc"], "relevance": [1, 1, 1, 1, 1, 0]}
    )
    query_set = QuerySet(queries, qrels)
    assert _needs(query_set) == {"p": 0, "q": 0, "r": 1, "s": 1}
    alone = query_set._replace(queries=queries.assign(product_id=""))
    assert list(_needs(alone).values()) == [0, 1, 2, 3]

    one, two = made_up(0.1), made_up(0.05)
    values = {"p": 0.5, "q": 0.4, "r": 1.0, "s": 0.0}
    for scores, gain in ((one, 0.0), (two, 0.25)):
        scores["text->image"]["by_query"] = {
            query: (_needs(query_set)[query], value + gain) for query, value in values.items()
        }
    lines = markdown({"one": one, "two": two}).splitlines()
    start = lines.index("| ndcg@10, two less one | text | image | text+image |")
    found = in_words(compare_paired(np.full(4, 0.25), np.zeros(4), np.array([0, 0, 1, 1])))
    assert lines[start + 2] == f"| text | - | {found} | - |"
    assert found.startswith("+0.250 [+0.250, +0.250], p = ")
    assert "less" not in markdown({"one": one})


def test_heat_maps_of_several_runs_share_a_colour_scale_and_carry_their_values() -> None:
    figure = chart({"one": made_up(0.1), "two": made_up(0.05)})
    panels = figure.axes
    assert [panel.get_title() for panel in panels[:2]] == ["one: recall@1", "two: recall@1"]
    assert [panel.images[0].get_clim() for panel in panels[:4]] == [
        (0, pytest.approx(0.8)), (0, pytest.approx(0.8)), (0, 0.08), (0, 0.08),
    ]  # fmt: skip
    first, second = panels[:2]
    np.testing.assert_allclose(first.images[0].get_array(), 0.1 * np.arange(9).reshape(3, 3))
    written = {text.get_position(): text.get_text() for text in second.texts}
    # Columns are products, rows are queries.
    assert written[1, 0] == "0.050"
    assert written[0, 1] == "0.150"


@pytest.fixture(scope="module")
def runs(
    tiny_text_encoder: Path, tiny_image_encoder: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    """Two saved models of different fusions."""
    folder = tmp_path_factory.mktemp("scenarios")
    for fusion in ("bilinear", "image"):
        model = tiny_model(tiny_text_encoder, tiny_image_encoder, fusion)
        save_model(model, AutoTokenizer.from_pretrained(tiny_text_encoder), folder / fusion)
    return [folder / "bilinear", folder / "image"]


def test_the_command_compares_runs_on_queries_with_pictures(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    tables = write_tiny_tables(tmp_path / "tables")
    queries = pd.read_csv(tables / "queries.csv")
    colour, kind = queries["query"].str.split().str[0], queries["query"].str.split().str[1]
    place = colour.map(list(COLOURS).index) * 4 + kind.map(KINDS.index) + 12
    queries["image"] = [
        f"images/{split}.{number}.jpg"
        for split, number in zip(queries["split"], place, strict=True)
    ]
    queries.to_csv(tables / "queries.csv", index=False)
    argv = [*map(str, runs), "--tables", str(tables), "--out", str(tmp_path / "out")]
    main([*argv, "--scenarios"])
    printed = capsys.readouterr().out
    results = json.loads((tmp_path / "out" / "scenarios.json").read_text())
    assert list(results) == ["bilinear", "image"]
    assert list(results["image"]) == SCENARIOS
    assert {block["queries"] for block in results["image"].values()} == {12}
    text = (tmp_path / "out" / "scenarios.md").read_text()
    assert text == markdown(results) + "\n24 products searched, all of the split.\n"
    assert markdown(results) in printed
    with Image.open(tmp_path / "out" / "scenarios.png") as picture:
        picture.load()
    main([*map(str, runs[:1]), "--tables", str(tables), "--scenarios"])
    alone = json.loads((runs[0] / "eval-dev" / "scenarios.json").read_text())
    assert alone == {"bilinear": results["bilinear"]}


def test_the_triggers_of_a_file_of_pairs_are_the_queries(
    runs: list[Path], tiny_tables: Path, tmp_path: Path
) -> None:
    """Pairs a product with the next of its kind; only their pictures differ."""
    products = pd.read_csv(tiny_tables / "products.csv", keep_default_na=False)
    rows = {row["product_id"]: row for row in products.to_dict("records")}
    lines = []
    for number in range(20):
        pair = {"tag": "decor", "split": "dev"}
        for place, item in ((1, f"dev.{number}"), (2, f"dev.{number + 4}")):
            pair[f"item_id_{place}"] = item
            pair[f"item_title_{place}"] = rows[item]["title"]
            pair[f"item_image_{place}"] = rows[item]["image"]
        lines.append(json.dumps(pair))
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("\n".join(lines) + "\n")
    argv = [str(runs[0]), "--tables", str(tiny_tables), "--out", str(tmp_path / "out")]
    main([*argv, "--scenarios", str(pairs)])
    scores = json.loads((tmp_path / "out" / "scenarios.json").read_text())["bilinear"]
    assert scores["text->text"]["queries"] == 20
    # Of the 20 triggers, products 5 and 11 have no picture.
    assert scores["image->text"]["queries"] == 18
    with pytest.raises(SystemExit, match=r"^error: "):
        main([*argv, "--scenarios", str(tmp_path / "nowhere.jsonl")])
    with pytest.raises(SystemExit, match=r"^error: none of 12 queries has a picture"):
        main([*argv, "--scenarios"])
