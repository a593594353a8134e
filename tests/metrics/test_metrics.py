"""Tests the metrics against their definitions, the TREC files and the significance tests."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ir_measures import R

from beyond_text.metrics.ranking import MEASURES, Ranking, needs, per_query, retrieval_metrics
from beyond_text.metrics.significance import compare_paired, interval
from beyond_text.metrics.trec import read_trec, write_trec


def frame(*rows: tuple, columns: str = "query_id product_id relevance") -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=columns.split())


def kinds(**kind: str) -> pd.DataFrame:
    return frame(*[(q, f"text of {q}", k) for q, k in kind.items()], columns="query_id query kind")


def ranking(*product_ids: list[str], query_ids: str) -> Ranking:
    scores = np.tile(np.arange(len(product_ids[0]), 0, -1, dtype=np.float32), (len(product_ids), 1))
    return Ranking(query_ids.split(), list(product_ids), scores)


def brute_force(
    scored: list[tuple[str, float]], grades: dict[str, float], above: float = 0.99
) -> dict[str, float]:
    """Computes each measure of one query by its definition, without a library."""
    by_id = sorted(scored, key=lambda item: item[0], reverse=True)
    order = [product_id for product_id, _ in sorted(by_id, key=lambda item: -item[1])]
    relevant = {product_id for product_id, grade in grades.items() if grade > above}

    def ndcg(cutoff: int) -> float:
        def dcg(sequence: list[int]) -> float:
            return sum((2**g - 1) / math.log2(i + 2) for i, g in enumerate(sequence[:cutoff]))

        ideal = sorted(grades.values(), reverse=True)
        return dcg([grades.get(product_id, 0) for product_id in order]) / dcg(ideal)

    first = next((rank for rank, p in enumerate(order, start=1) if p in relevant), math.inf)
    return {
        "ndcg@1": ndcg(1),
        "ndcg@10": ndcg(10),
        "recall@10": len(relevant & set(order[:10])) / len(relevant),
        "recall@100": len(relevant & set(order[:100])) / len(relevant),
        "mrr": 1 / first,
    }


@pytest.mark.parametrize("seed", range(5))
def test_every_measure_equals_brute_force_with_ties_and_missing_queries(seed: int) -> None:
    random = np.random.default_rng(seed)
    products = [f"p{number}" for number in range(150)]
    query_ids = [f"q{number}" for number in range(12)]
    # There are few different scores, so the rule for ties decides most of the order.
    scores = -np.sort(-random.integers(0, 8, (10, 120)).astype(np.float32) / 7)
    found = [random.permutation(products)[:120].tolist() for _ in range(10)]
    run = Ranking(query_ids[:10], found, scores)
    grades = {q: dict(zip(products, random.choice([0, 0, 0, 1, 2, 3], 150).tolist(), strict=True))
              for q in query_ids}  # fmt: skip
    qrels = frame(*[(q, p, g) for q, row in grades.items() for p, g in row.items()])

    expected = {
        q: brute_force(
            list(zip(found[i], scores[i].tolist(), strict=True)) if i < 10 else [], grades[q]
        )
        for i, q in enumerate(query_ids)
    }
    queries = kinds(**dict.fromkeys(query_ids, "attribute"))
    metrics = retrieval_metrics(run, queries, qrels)
    for name in MEASURES:
        values = per_query(run, queries, qrels, name)
        assert values.index.tolist() == query_ids
        np.testing.assert_allclose(values, [expected[q][name] for q in query_ids], atol=1e-12)
        assert metrics["all"][name] == pytest.approx(values.mean(), abs=1e-12)
    assert metrics["attribute"] == metrics["all"]
    assert metrics["all"]["queries"] == 12


def test_measures_of_the_callers_choice_replace_the_usual_ones() -> None:
    run = ranking(["p1", "p2", "p3"], query_ids="q")
    judged = frame(("q", "p1", 1), ("q", "p3", 2), ("q", "p4", 1))
    asked = {"recall@1": R(rel=1) @ 1, "recall of 2@3": R(rel=2) @ 3}
    block = retrieval_metrics(run, kinds(q="a"), judged, asked)["a"]
    counts = {"queries": 1, "queries_without_judgements": 0}
    assert block == pytest.approx({"recall@1": 1 / 3, "recall of 2@3": 1.0} | counts)
    usual = retrieval_metrics(run, kinds(q="a"), judged)["a"]
    assert set(usual) == {*MEASURES, *counts}


def test_gain_is_two_to_the_grade_minus_one() -> None:
    metrics = retrieval_metrics(
        ranking(["partial", "exact"], query_ids="q"),
        kinds(q="human"),
        frame(("q", "exact", 2), ("q", "partial", 1)),
    )
    assert metrics["all"]["ndcg@1"] == pytest.approx(1 / 3)
    assert metrics["all"]["ndcg@10"] == pytest.approx(
        (1 + 3 / math.log2(3)) / (3 + 1 / math.log2(3))
    )


def test_a_query_with_nothing_found_counts_zero_and_one_without_judgments_is_counted() -> None:
    queries = kinds(right="a", wrong="a", absent="b", unjudged="b", zero="b")
    qrels = frame(
        *[(q, "p1", 1) for q in ("right", "wrong", "absent")], ("zero", "p1", 0), ("other", "p1", 1)
    )
    run = ranking(["p1"], ["p2"], ["p1"], ["p1"], query_ids="right wrong unjudged zero")
    metrics = retrieval_metrics(run, queries, qrels)
    assert metrics["all"]["mrr"] == pytest.approx(1 / 3)
    assert (metrics["all"]["queries"], metrics["all"]["queries_without_judgements"]) == (3, 2)
    assert (metrics["a"]["mrr"], metrics["a"]["queries"]) == (0.5, 2)
    assert (metrics["b"]["mrr"], metrics["b"]["queries_without_judgements"]) == (0.0, 2)


def test_an_empty_ranking_scores_zero() -> None:
    run = Ranking([], [], np.zeros((0, 0), np.float32))
    metrics = retrieval_metrics(run, kinds(q="a"), frame(("q", "p", 2)))
    assert {metrics["all"][name] for name in MEASURES} == {0.0}


def test_a_kind_without_judgments_has_counts_and_no_metric() -> None:
    run = ranking(["p"], query_ids="q")
    metrics = retrieval_metrics(run, kinds(q="a", lone="b"), frame(("q", "p", 2)))
    assert metrics["b"] == {"queries": 0, "queries_without_judgements": 1}


def test_each_further_grade_column_has_its_own_block_and_its_own_queries() -> None:
    qrels = frame(
        ("q", "p1", 0, 2),
        ("q", "p2", 1, 0),
        ("r", "p1", 3, 0),
        columns="query_id product_id desirability relevance",
    )
    metrics = retrieval_metrics(
        ranking(["p1", "p2"], ["p1", "p2"], query_ids="q r"), kinds(q="a", r="a"), qrels
    )
    assert (metrics["all"]["mrr"], metrics["all"]["queries"]) == (1.0, 1)
    assert (metrics["all"]["desirability"]["mrr"], metrics["all"]["desirability"]["queries"]) == (
        0.75,
        2,
    )


@pytest.mark.parametrize("grade", [float("nan"), float("inf"), -1, 100.5, "high", None])
def test_a_grade_that_is_no_number_in_range_names_query_and_product(grade: object) -> None:
    qrels = frame(("q", "p", 2), ("r", "shoe 7", grade))
    with pytest.raises(ValueError, match=r"query 'r', product 'shoe 7': relevance is .*expected"):
        retrieval_metrics(ranking(["p"], query_ids="q"), kinds(q="a", r="a"), qrels)


def test_whole_grades_written_as_text_or_float_are_read() -> None:
    run, queries = ranking(["p"], query_ids="q"), kinds(q="a")
    assert retrieval_metrics(run, queries, frame(("q", "p", "2")))["all"]["mrr"] == 1
    assert retrieval_metrics(run, queries, frame(("q", "p", 2.0)))["all"]["mrr"] == 1


@pytest.mark.parametrize(
    ("run", "queries", "qrels", "message"),
    [
        (ranking(["p"], query_ids="x"), kinds(q="a"), frame(("q", "p", 1)), "query 'x' is not"),
        (ranking(["p"], query_ids="q"), kinds(q="all"), frame(("q", "p", 1)), 'kind "all"'),
        (ranking(["p"], query_ids="q"), kinds(q="a"), frame(("q", "p", 0)), "none of 1 queries"),
        (ranking(["p"], query_ids="q"), kinds(q="a"), frame(("q", 7, 1)), "product_id 7 is not te"),
        (ranking(["p", "p"], query_ids="q"), kinds(q="a"), frame(("q", "p", 1)), "1 of them diff"),
        (ranking(["p"], ["p"], query_ids="q q"), kinds(q="a"), frame(("q", "p", 1)), "twice"),
        (ranking(["p"], query_ids="q r"), kinds(q="a"), frame(("q", "p", 1)), "2 queries, 1 rows"),
        (
            ranking(["p"], query_ids="q"),
            kinds(q="a"),
            frame(("q", "p", 1), ("q", "p", 2)),
            "'p' judged twice",
        ),
        (
            Ranking(["q"], [["p"]], np.array([[np.nan]], np.float32)),
            kinds(q="a"),
            frame(("q", "p", 1)),
            "not finite",
        ),
        (
            Ranking(["q"], [["p", "r"]], np.array([[1, 2]], np.float32)),
            kinds(q="a"),
            frame(("q", "p", 1)),
            "not best first",
        ),
    ],
)
def test_bad_input_is_named(
    run: Ranking, queries: pd.DataFrame, qrels: pd.DataFrame, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        retrieval_metrics(run, queries, qrels)


def test_trec_files_give_back_ranking_and_metrics_to_the_last_bit(tmp_path: Path) -> None:
    one = np.float32(1)
    scores = np.array([[np.nextafter(one, np.float32(2)), one, 1e-30]] * 2, np.float32)
    run = Ranking(["q 1", "r%20"], [["b", "å c", "d"], ["d", "b", "å c"]], scores)
    queries = kinds(**{"q 1": "two words", "r%20": "a", "unjudged": "a"})
    qrels = frame(
        ("q 1", "å c", 2, 0), ("r%20", "d", 1, 3), columns="query_id product_id relevance desire"
    )
    write_trec(tmp_path, run, qrels, queries)
    back = read_trec(tmp_path)
    assert back.ranking[:2] == run[:2]
    assert np.array_equal(back.ranking.scores, scores)
    assert back.ranking.scores.dtype == np.float32
    assert retrieval_metrics(*back) == retrieval_metrics(run, queries, qrels)
    write_trec(tmp_path, run, qrels, seen := queries.assign(seen=["1", "", ""]))
    metrics = retrieval_metrics(*read_trec(tmp_path))
    assert metrics == retrieval_metrics(run, seen, qrels)
    assert {"seen", "unseen"} <= metrics.keys()
    assert per_query(*back, measure="mrr").to_dict() == {"q 1": 0.5, "r%20": 1.0}
    assert (tmp_path / "qrels.trec").read_text().splitlines()[0] == "q%201 0 å%20c 2"
    first = (tmp_path / "run.trec").read_text().splitlines()[0]
    assert first == "q%201 Q0 b 1 1.0000001192092896 beyond-text"


def test_trec_files_without_queries_know_every_judged_query(tmp_path: Path) -> None:
    write_trec(tmp_path, ranking(["p"], query_ids="q"), frame(("q", "p", 1), ("r", "p", 1)))
    assert per_query(*read_trec(tmp_path)).to_dict() == {"q": 1.0, "r": 0.0}


def test_a_damaged_trec_file_names_its_line(tmp_path: Path) -> None:
    write_trec(tmp_path, ranking(["p", "r"], query_ids="q"), frame(("q", "p", 1)))
    path = tmp_path / "run.trec"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ValueError, match=r"run.trec:2: expected 6 fields, got"):
        read_trec(tmp_path)


def test_interval_covers_the_mean_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    covered = []
    for seed in range(100):
        mean, low, high = interval(random.normal(0.5, 0.2, 60), seed=seed)
        assert low < mean < high
        covered.append(low <= 0.5 <= high)
    assert 0.88 <= np.mean(covered) <= 1.0


def test_interval_has_the_width_of_the_normal_theory() -> None:
    values = np.random.default_rng(1).normal(0, 1, 400)
    _, low, high = interval(values)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.05)


def test_sign_flip_p_is_exact_for_few_queries() -> None:
    a = np.array([0.9, 0.8, 0.7, 0.6])
    # Of the 16 sign patterns, only all plus and all minus have a mean as far from 0.
    assert compare_paired(a, a - np.array([0.1, 0.2, 0.3, 0.4])).p == pytest.approx(2 / 16)


def test_equal_systems_do_not_differ_and_a_shift_does() -> None:
    a = np.random.default_rng(2).uniform(size=300)
    assert compare_paired(a, a) == (0.0, 0.0, 0.0, 1.0)
    noise = np.random.default_rng(3).normal(0.05, 0.1, 300)
    difference, low, high, p = compare_paired(a + noise, a)
    assert difference == pytest.approx(noise.mean())
    assert 0 < low < difference < high
    assert p < 0.001
    assert compare_paired(a, a + noise).difference == pytest.approx(-difference)


def test_repeating_queries_in_other_words_makes_nothing_surer() -> None:
    values, others = np.random.default_rng(4).normal(0.5, 0.2, (2, 30))
    words = np.random.default_rng(5).integers(1, 20, 30)
    groups = np.repeat(np.arange(30), 7)
    assert interval(values.repeat(7), groups) == pytest.approx(interval(values), rel=1e-12)
    repeated = compare_paired(values.repeat(7), others.repeat(7), groups)
    assert repeated == pytest.approx(compare_paired(values, others), rel=1e-12)
    # With groups of different sizes too, the width is that of 30 needs, not of 300 queries.
    groups = np.repeat(np.arange(30), words)
    mean, low, high = interval(values.repeat(words), groups)
    assert mean == pytest.approx(np.average(values, weights=words))
    linear = words * (values - mean)
    assert high - low == pytest.approx(2 * 1.96 * np.linalg.norm(linear) / words.sum(), rel=0.1)


def test_needs_are_the_queries_with_equal_judgments() -> None:
    qrels = frame(
        ("a", "x", 2), ("a", "y", 1), ("b", "y", 1), ("b", "x", 2), ("c", "x", 2), ("c", "y", 2),
        ("d", "x", 2), ("d", "z", 0), ("e", "x", 2),
    )  # fmt: skip
    asked = pd.Index(["e", "a", "b", "c", "d", "unjudged", "unknown"])
    assert needs(asked, qrels).tolist() == [0, 1, 1, 2, 0, 3, 4]


def test_comparing_unpaired_values_is_refused() -> None:
    with pytest.raises(ValueError, match="got 2 and 3"):
        compare_paired(np.zeros(2), np.zeros(3))


def test_metrics_import_no_training_library() -> None:
    code = "import beyond_text.metrics.ranking, sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "pytorch_lightning", "faiss"} & set(run.stdout.split())


@pytest.mark.parametrize("highest", [0.9, 3.5, 100.0])
def test_fractions_are_measured_as_they_are_written(highest: float, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    products = [f"p{number}" for number in range(150)]
    scores = -np.sort(-random.integers(0, 8, (6, 120)).astype(np.float32) / 7)
    found = [random.permutation(products)[:120].tolist() for _ in range(6)]
    run = Ranking([f"q{number}" for number in range(6)], found, scores)
    steps = np.array([0, 0, 0.1, 0.35, 0.7, 1]) * highest
    grades = [dict(zip(products, random.choice(steps, 150).tolist(), strict=True)) for _ in found]
    qrels = frame(*[(f"q{i}", p, g) for i, row in enumerate(grades) for p, g in row.items()])
    queries = kinds(**dict.fromkeys(run.query_ids, "log"))
    expected = [
        brute_force(list(zip(found[i], scores[i].tolist(), strict=True)), grades[i], above=0)
        for i in range(6)
    ]
    for name in MEASURES:
        values = per_query(run, queries, qrels, name)
        np.testing.assert_allclose(values, [each[name] for each in expected], rtol=1e-12)
    write_trec(tmp_path, run, qrels, queries)
    written = {line.split()[3] for line in (tmp_path / "qrels.trec").read_text().splitlines()}
    assert written == {repr(float(step)) for step in steps}
    metrics = retrieval_metrics(run, queries, qrels)
    assert retrieval_metrics(*read_trec(tmp_path)) == metrics


def test_whole_grades_have_the_same_metrics_by_either_computation() -> None:
    random = np.random.default_rng(1)
    found = [random.permutation([f"p{n}" for n in range(30)]).tolist() for _ in range(5)]
    run = ranking(*found, query_ids="a b c d e")
    queries = kinds(**dict.fromkeys("abcde", "log"))
    qrels = frame(*[(q, f"p{n}", int(random.integers(0, 4))) for q in "abcde" for n in range(25)])
    whole = retrieval_metrics(run, queries, qrels)["all"]
    # A fraction that no measure notices: the product is judged for a query that is not measured.
    fractions = pd.concat([qrels, frame(("other", "p1", 0.5))])
    assert retrieval_metrics(run, queries, fractions)["all"] == pytest.approx(whole, abs=1e-12)


def test_queries_that_train_has_too_have_a_block_of_their_own() -> None:
    queries = pd.DataFrame({"query_id": ["a", "b", "c"], "kind": "human", "seen": ["1", "", ""]})
    qrels = pd.DataFrame({"query_id": ["a", "b", "c"], "product_id": "x", "relevance": 1})
    ranking = Ranking(
        ["a", "b", "c"],
        [["x", "y"], ["y", "x"], ["y", "x"]],
        np.array([[2.0, 1.0]] * 3, np.float32),
    )
    found = retrieval_metrics(ranking, queries, qrels)
    assert found["seen"]["mrr"] == 1.0
    assert found["unseen"]["mrr"] == 0.5
    assert (found["seen"]["queries"], found["unseen"]["queries"]) == (1, 2)
    assert found["all"]["mrr"] == pytest.approx(2 / 3)
    assert "seen" not in retrieval_metrics(ranking, queries.assign(seen=""), qrels)
