"""Removing a modality gives the scores of products that never had it."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from transformers import AutoTokenizer

from beyond_text.evaluate import evaluate, main
from beyond_text.evaluation.missing import (
    LABELS,
    NOTE,
    SEED,
    SHARES,
    Scores,
    chart,
    markdown,
    measure,
)
from beyond_text.metrics.ranking import needs, retrieval_metrics
from beyond_text.models.checkpoint import save_model
from beyond_text.models.two_tower import TwoTower
from beyond_text.retrieval.catalogue import Catalogue, DropModality, Modality
from beyond_text.retrieval.encode import Encoder, encode_products
from beyond_text.retrieval.query_set import QuerySet
from beyond_text.retrieval.ranking import rank
from beyond_text.shards.batch import Sample
from tests.conftest import tiny_tokenizer
from tests.evaluation.test_scenarios import pictures, tiny_model, tiny_split


@pytest.fixture(scope="module")
def model(tiny_text_encoder: Path, tiny_image_encoder: Path) -> TwoTower:
    return tiny_model(tiny_text_encoder, tiny_image_encoder)


def ndcg(model: TwoTower, catalogue: Catalogue, query_set: QuerySet) -> dict[str, float]:
    """Returns the scores of the ordinary evaluation by kind; zeros where no product is left."""
    found = rank(Encoder(model, tiny_tokenizer()), catalogue, query_set)
    if not found:
        return {"all": 0.0, "a": 0.0, "b": 0.0}
    metrics = retrieval_metrics(found["product"], query_set.queries, query_set.qrels)
    return {kind: block["ndcg@10"] for kind, block in metrics.items()}


def means(scores: Scores, removed: Modality) -> dict[str, dict[str, float]]:
    """Returns nDCG@10 by share and kind of query."""
    kinds = {"all", *(kind for kind, _ in scores["queries"].values())}
    return {
        word: {
            kind: float(
                pd.Series(
                    [v for q, v in found.items() if kind in ("all", scores["queries"][q][0])]
                ).mean()
            )
            for kind in kinds
        }
        for word, found in scores["removed"][removed].items()
    }


def test_every_share_equals_evaluating_a_catalogue_that_lacks_it(model: TwoTower) -> None:
    catalogue, query_set = tiny_split()
    scores = measure(Encoder(model, tiny_tokenizer()), catalogue, query_set)
    for removed in ("image", "text"):
        by_share = means(scores, removed)
        assert list(by_share) == LABELS
        for share, word in zip(SHARES, LABELS, strict=True):
            reduced = catalogue._replace(
                products=DropModality(catalogue.products, removed, share, SEED)
            )
            assert by_share[word] == pytest.approx(ndcg(model, reduced, query_set), abs=1e-6)
        # At least two of the shares remove something.
        assert len({block["all"] for block in by_share.values()}) > 2


def test_nothing_removed_is_the_ordinary_evaluation_to_the_last_bit(model: TwoTower) -> None:
    catalogue, query_set = tiny_split()
    scores = measure(Encoder(model, tiny_tokenizer()), catalogue, query_set)
    expected = ndcg(model, catalogue, query_set)
    assert means(scores, "image")["0%"] == expected
    assert scores["removed"]["image"]["0%"] == scores["removed"]["text"]["0%"]
    need = {query: number for query, (_, number) in scores["queries"].items()}
    assert list(need) == [f"q{number}" for number in range(9)]
    assert list(need.values()) == needs(pd.Index(need), query_set.qrels).tolist()


def test_everything_removed_equals_products_that_never_had_it(model: TwoTower) -> None:
    catalogue, query_set = tiny_split()
    scores = measure(Encoder(model, tiny_tokenizer()), catalogue, query_set)
    for removed, nothing in (("image", None), ("text", "")):
        never = [sample._replace(**{removed: nothing}) for sample in catalogue.products]
        expected = ndcg(model, catalogue._replace(products=never), query_set)
        assert means(scores, removed)["100%"] == pytest.approx(expected, abs=1e-6)
    only_text = encode_products(Encoder(model, tiny_tokenizer()), catalogue, modalities=("text",))[
        "product"
    ]
    assert only_text.ids == [sample.product_id for sample in catalogue.products if sample.text]


def test_products_left_with_nothing_are_found_by_no_query(model: TwoTower) -> None:
    catalogue, query_set = tiny_split()
    shown = pictures(12)
    only_pictures = [
        sample._replace(text="", image=shown[number])
        for number, sample in enumerate(catalogue.products)
    ]
    catalogue = catalogue._replace(products=only_pictures)
    scores = measure(Encoder(model, tiny_tokenizer()), catalogue, query_set)
    assert means(scores, "image")["100%"] == {"all": 0.0, "a": 0.0, "b": 0.0}
    assert means(scores, "image")["0%"]["all"] > 0
    # These products have no text to remove.
    assert len({block["all"] for block in means(scores, "text").values()}) == 1


class Counted(list[Sample]):
    """A list of products that counts how often one is read."""

    reads = 0

    def __getitem__(self, number: int) -> Sample:
        Counted.reads += 1
        return super().__getitem__(number)


def test_products_are_read_four_times_however_many_shares_there_are(model: TwoTower) -> None:
    catalogue, query_set = tiny_split()
    counted = Counted(catalogue.products)
    Counted.reads = 0
    encoder = Encoder(model, tiny_tokenizer())
    measure(encoder, catalogue._replace(products=counted), query_set)
    # Once to find products of one picture, and once for each of the three encodings.
    assert Counted.reads == 4 * 12


def made_up(start: float) -> Scores:
    """Returns scores of eight queries, each a need; those of the first kind fall with the share."""
    values = {
        word: {f"q{q}": start / (n + 1) if q < 6 else 0.5 for q in range(8)}
        for n, word in enumerate(LABELS)
    }
    asked = {f"q{q}": ("falling" if q < 6 else "human", q) for q in range(8)}
    return {"queries": asked, "removed": {"image": values, "text": values}}


def test_table_has_a_row_for_each_run_and_kind_and_paired_differences() -> None:
    lines = markdown({"one": made_up(1.0), "two": made_up(0.6)}).splitlines()
    assert lines[0] == "| pictures removed | queries | 0% | 25% | 50% | 75% | 100% |"
    assert lines[2].startswith("| one | all | 0.875 | 0.500 | 0.375 |")
    assert lines[3] == "| one | falling | 1.000 | 0.500 | 0.333 | 0.250 | 0.200 |"
    assert lines[4] == "| one | human | 0.500 | 0.500 | 0.500 | 0.500 | 0.500 |"
    assert lines[6].startswith("| two | falling | 0.600 | 0.300 |")
    # Six needs with the same difference: two of the 64 sign patterns give one as large.
    assert lines[9].startswith(
        "| two less one | falling | -0.400 [-0.400, -0.400], p = 0.031 | -0.200 [-0.200, -0.200]"
    )
    assert lines[10].startswith("| two less one | human | +0.000 [+0.000, +0.000], p = 1.000 |")
    assert lines[12].startswith("| texts removed |")
    assert lines[-1] == NOTE


def test_runs_that_were_asked_otherwise_have_no_difference() -> None:
    other = made_up(0.6)
    other["queries"] = {f"q{q}": ("human", q) for q in range(8)}
    assert "less" not in markdown({"one": made_up(1.0), "two": other})


def test_chart_has_a_panel_for_each_modality_and_a_line_with_its_interval_for_each_run() -> None:
    panels = chart({"one": made_up(1.0), "two": made_up(0.6)}).axes
    assert ["pictures" in panel.get_xlabel() for panel in panels] == [True, False]
    for panel in panels:
        assert [line.get_label() for line in panel.lines] == ["one", "two"]
        assert list(panel.lines[1].get_xdata()) == [0, 25, 50, 75, 100]
        expected = [(6 * 0.6 / n + 1) / 8 for n in range(1, 6)]
        assert list(panel.lines[1].get_ydata()) == pytest.approx(expected)
        low, high = panel.collections[0].get_paths()[0].vertices[:, 1][[1, -2]]
        assert low < (6 + 1) / 8 < high


def test_the_command_compares_runs_and_agrees_with_evaluation(
    tiny_text_encoder: Path,
    tiny_image_encoder: Path,
    tiny_shards: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    runs = [tmp_path / name / "stage3" for name in ("one", "two")]
    for run, fusion in zip(runs, ("bilinear", "text"), strict=True):
        model = tiny_model(tiny_text_encoder, tiny_image_encoder, fusion)
        save_model(model, AutoTokenizer.from_pretrained(tiny_text_encoder), run)
    argv = ["--tables", str(tiny_shards), "--missing", "--out", str(tmp_path / "out")]
    main([*map(str, runs), *argv])
    results = json.loads((tmp_path / "out" / "missing.json").read_text())
    # Folders of the same name are labelled by what their paths do not share.
    assert list(results) == ["one/stage3", "two/stage3"]
    for run in runs:
        block = evaluate(run, tiny_shards, "dev", tmp_path / "whole")["all"]
        found = means(results[f"{run.parent.name}/stage3"], "image")["0%"]["all"]
        assert found == block["ndcg@10"]
    # A fusion of text alone loses nothing when pictures are removed.
    assert len({b["all"] for b in means(results["two/stage3"], "image").values()}) == 1
    written = (tmp_path / "out" / "missing.md").read_text()
    assert written == markdown(results) + "\n24 products searched, all of the split.\n"
    assert markdown(results) in capsys.readouterr().out
    with Image.open(tmp_path / "out" / "missing.png") as picture:
        picture.load()
    for words, message in (
        ([str(runs[0]), str(runs[0]), *argv], "given twice"),
        ([str(tmp_path), *argv], "no finished model there"),
    ):
        with pytest.raises(SystemExit, match=rf"^error: .*{message}"):
            main(words)
