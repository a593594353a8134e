"""The command that mixes weights: what is mixed, what is chosen, and what is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from beyond_text.config.load import load_config, to_yaml
from beyond_text.config.settings import ConfigError
from beyond_text.evaluate import evaluate
from beyond_text.evaluation.soup import Mix, Shop, Tasting, digits
from beyond_text.export import main as export
from beyond_text.metrics.history import read_history
from beyond_text.metrics.ranking import Ranking
from beyond_text.models.mixing import mixed
from beyond_text.soup import main, parse
from beyond_text.train import train
from beyond_text.training.module import ContrastiveModule
from beyond_text.training.untouched import untouched
from data_prep.shards import build_shards

pytestmark = pytest.mark.slow

WEIGHTS = Path("model") / "model.safetensors"


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / WEIGHTS)


@pytest.fixture(scope="module")
def start(tiny_settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A first stage, whose image projection is fitted before its first step."""
    run = tmp_path_factory.mktemp("soup") / "first"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("beyond_text.training.alignment.FEWEST", 8)
        words = ["image_encoder.lora.rank=0", "losses.text_image=1", "steps=3", "seed=3"]
        train(load_config([], [*tiny_settings, *words, f"run={run}"]))
    return run


@pytest.fixture(scope="module")
def run(tiny_settings: list[str], start: Path) -> Path:
    """A second stage from it."""
    run = start.with_name("second")
    words = [f"start={start}", "losses.query_product=1", "steps=6", "fusion=gated", f"run={run}"]
    train(load_config([], [*tiny_settings, *words, "lr.text_encoder=0.01"]))
    return run


def test_weights_are_mixed_by_name_in_their_own_precision() -> None:
    a = {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(7), "h": torch.ones(2).half()}
    b = {"w": torch.tensor([3.0, torch.inf]), "n": torch.tensor(9), "h": torch.zeros(2).half()}
    half = mixed([a, {**b, "w": torch.tensor([3.0, 6.0])}], [0.25, 0.75])
    assert half["w"].tolist() == [2.5, 5.0]
    assert half["n"] == 7
    assert half["h"].dtype == torch.float16
    assert half["h"].tolist() == [0.25, 0.25]
    # A share of 0 takes nothing of what stands there, and 1 every bit of the other.
    assert mixed([a, b], [1.0, 0.0])["w"].equal(a["w"])
    assert mixed([a, b], [0.0, 1.0])["w"].equal(b["w"])
    third = mixed([a, a, a], [1 / 3] * 3)
    assert third["w"].equal(a["w"])


def test_the_ends_are_run_and_start_and_the_best_on_dev_is_a_finished_run(
    run: Path, start: Path, tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    other = tmp_path / "elsewhere"
    shutil.copytree(tiny_shards, other)
    out = tmp_path / "mix"
    words = ["--alpha", "0", "0.3", "1", "--others", str(other), "--out", str(out)]
    main([str(run), str(start), *words])
    printed = capsys.readouterr().out
    assert "its fusion is another one" in printed

    table = pd.read_csv(out / "soup.csv", dtype={"name": str})
    assert table["name"].unique().tolist() == ["0", "0.3", "1"]
    assert table["shop"].unique().tolist() == [tiny_shards.name, "elsewhere"]
    assert set(table["view"]) == {"product", "text", "image"}
    # The other shop is a copy of the run's own.
    halves = [part.drop(columns="shop") for _, part in table.groupby("shop", sort=False)]
    assert halves[0].reset_index(drop=True).equals(halves[1].reset_index(drop=True))
    fused = table[(table["shop"] == "elsewhere") & (table["view"] == "product")]
    fused = fused.set_index("name")
    expected = evaluate(run, tiny_shards, "dev", tmp_path / "evaluated")["all"]["ndcg@10"]
    assert fused["mean"]["1"] == pytest.approx(expected)
    texts = table[table["view"] == "text"].set_index("name")["mean"]["0"].iloc[0]
    measured = evaluate(start, tiny_shards, "dev", tmp_path / "start", view="text")
    assert texts == pytest.approx(measured["all"]["ndcg@10"])
    difference = fused["mean"]["0.3"] - fused["mean"]["1"]
    assert fused["over_base_difference"]["0.3"] == pytest.approx(difference)
    assert fused["over_base_difference"].isna()["1"]

    record = json.loads((out / "soup.json").read_text())
    best = max(record["dev"], key=lambda name: (record["dev"][name], float(name)))
    assert record["chosen"] == best
    assert record["dev"]["1"] == pytest.approx(expected)
    alpha = float(best)
    ours, theirs, found = weights(run), weights(start), weights(out)
    assert found.keys() == ours.keys()
    for name, value in found.items():
        if name.startswith("fusion.") or not value.is_floating_point():
            assert value.equal(ours[name])
        else:
            assert torch.allclose(value, alpha * ours[name] + (1 - alpha) * theirs[name])
    assert f"| **{best}** |" in printed
    assert (out / "soup.md").read_text(encoding="utf-8") in printed
    assert Image.open(out / "soup.png").size[0] > 100

    metrics = json.loads((out / "metrics.json").read_text())
    again = evaluate(out, tiny_shards, "dev", tmp_path / "again")
    assert metrics["all"]["ndcg@10"] == pytest.approx(again["all"]["ndcg@10"])
    assert metrics["all"]["ndcg@10"] == pytest.approx(record["dev"][best])
    assert list(read_history(out)) == ["step 0", "first", "second", "mix"]
    # A folder of the run's name in another place is another run.
    named = tmp_path / "second"
    main([str(run), str(start), "--alpha", "0.5", "--out", str(named)])
    assert list(read_history(named)) == ["step 0", "first", "second", str(named)]
    assert read_history(named)["second"] == read_history(run)["second"]
    assert load_config([out / "config.yaml"]).run == str(out)


def test_a_soup_is_a_start_and_what_is_no_soup_is_not_replaced(
    run: Path, start: Path, tiny_settings: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "mix"
    main([str(run), str(start), "--alpha", "0.5", "--out", str(out)])
    main([str(run), str(start), "--alpha", "0.5", "--out", str(out)])
    # Nor is one replaced by a mixture with it.
    before = weights(out)
    others = [[str(run), str(out)], [str(out), str(start)], [str(run), str(out), "--average"]]
    for words in others:
        with pytest.raises(SystemExit, match="error: --out: expected another folder than those"):
            main([*words, "--out", str(tmp_path / "." / "mix")])
    assert all(value.equal(before[name]) for name, value in weights(out).items())
    after = tmp_path / "after"
    words = [f"start={out}", "losses.query_product=1", "steps=1", "fusion=gated", f"run={after}"]
    train(load_config([], [*tiny_settings, *words]))
    assert (after / "metrics.json").is_file()
    # Another mixture is another start, whatever its metrics.
    main([str(run), str(start), "--alpha", "0.50001", "--out", str(out)])
    with pytest.raises(ConfigError, match="what start held when the run began is not what is"):
        train(load_config([], [*tiny_settings, f"start={out}", "losses.query_product=1",
                               "steps=1", "fusion=gated", f"run={after}"]))  # fmt: skip
    for resume in ("auto", "never"):
        own = load_config([out / "config.yaml"], [f"resume={resume}"])
        with pytest.raises(ConfigError, match="mix is a mixture of other runs"):
            train(own)
    with pytest.raises(SystemExit, match=r"error: .*after: expected a new or empty folder"):
        main([str(run), str(start), "--out", str(after)])


def test_untouched_is_what_the_first_stage_began_with(
    run: Path, start: Path, tiny_settings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beyond_text.training.alignment.FEWEST", 8)
    began: dict[str, torch.Tensor] = {}

    def remember(module: ContrastiveModule) -> None:
        began.update({name: value.clone() for name, value in module.model.state_dict().items()})

    monkeypatch.setattr(ContrastiveModule, "on_train_start", remember)
    settings = load_config([start / "config.yaml"])
    settings.run = str(start.with_name("again"))
    settings.steps = 1
    train(settings)
    found = untouched(run).model.state_dict()
    # The second stage has another fusion.
    same = [name for name in began if not name.startswith("fusion.")]
    assert len(same) > 20
    assert all(found[name].equal(began[name]) for name in same)
    assert any(name.startswith("fusion.gate") for name in found)
    assert not found["image_projection.weight"].equal(weights(run)["image_projection.weight"])


def test_the_block_of_the_untouched_is_that_which_a_later_stage_drew(
    start: Path, tiny_settings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[dict[str, torch.Tensor]] = []

    def remember(module: ContrastiveModule) -> None:
        state = module.model.fusion.state_dict()
        began.append({name: value.clone() for name, value in state.items()})

    monkeypatch.setattr(ContrastiveModule, "on_train_start", remember)
    stage, last = start.with_name("block"), start.with_name("block-on")
    words = ["losses.query_product=1", "steps=1", "fusion=concat"]
    for run, before, seed in ((stage, start, 5), (last, stage, 8)):
        own = [f"run={run}", f"start={before}", f"seed={seed}"]
        train(load_config([], [*tiny_settings, *words, *own]))
    for run in (stage, last):
        found = untouched(run).model.fusion.state_dict()
        assert all(found[name].equal(value) for name, value in began[0].items())
    assert not began[1]["out.weight"].equal(began[0]["out.weight"])


def test_untouched_without_the_folders_before_it_is_that_of_the_run(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    alone = tmp_path / "alone"
    shutil.copytree(run, alone)
    settings = alone / "config.yaml"
    text = settings.read_text().replace("start: ", "start: /gone")
    settings.write_text(text)
    main([str(alone), "untouched", "--alpha", "0", "--out", str(tmp_path / "mix")])
    assert "gone; its untouched model is that of the settings" in capsys.readouterr().err
    record = json.loads((tmp_path / "mix" / "soup.json").read_text())
    assert record["ingredients"]["untouched"] == ""


def test_runs_are_averaged_uniformly_and_greedily(
    run: Path, tiny_shards: Path, tmp_path: Path
) -> None:
    # One whose queries and products point in opposite directions lowers every average; another has
    # the name of an average.
    bad, near = tmp_path / "bad", tmp_path / "uniform"
    for copy, factor in ((bad, -50.0), (near, 1.0)):
        shutil.copytree(run, copy)
        state = weights(copy)
        state["query_projection.weight"] *= factor
        save_file(state, copy / WEIGHTS)
    out = tmp_path / "mean"
    main([str(run), str(bad), str(near), "--average", "--out", str(out)])
    record = json.loads((out / "soup.json").read_text())
    assert list(record["weights"]) == ["second", "bad", str(near), "uniform", "greedy"]
    assert record["weights"]["uniform"] == [1 / 3] * 3
    assert record["weights"]["greedy"] == [0.5, 0, 0.5]
    assert record["chosen"] == "greedy"
    ours, found = weights(run), weights(out)
    assert all(found[name].equal(ours[name]) for name in ours)
    export([str(out), str(tmp_path / "export")])
    card = (tmp_path / "export" / "README.md").read_text(encoding="utf-8")
    assert "of several runs: 0.5 of second, 0 of bad, 0.5 of uniform." in card


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fusion=sum"], "fusion is 'sum' there, and 'gated' here"),
        (["fusion=gated", "dim=8"], "dim is 8 there, and 16 here"),
        (["fusion=gated", "share_text_encoder=false"], "share_text_encoder is False there"),
        (["fusion=gated", "image_encoder.path={folder}/vit"], r"\d+ weights differ, the first is "),
    ],
)
def test_models_that_are_not_made_alike_are_refused_in_one_line(
    run: Path, tiny_settings: list[str], tmp_path: Path, folder: Path, words: list[str], said: str
) -> None:
    other = tmp_path / "other"
    given = [word.format(folder=folder) for word in words]
    given += ["losses.query_product=1", "steps=1", f"run={other}"]
    train(load_config([], [*tiny_settings, *given]))
    with pytest.raises(
        SystemExit, match=rf"error: .*other cannot be mixed with .*second: .*{said}"
    ):
        main([str(run), str(other), "--average", "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_an_other_tokenizer_is_refused(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run, other)
    file = other / "model" / "text_encoder" / "tokenizer.json"
    file.write_text(file.read_text().replace('"vase"', '"chair"'))
    with pytest.raises(SystemExit, match=r"error: .*its tokenizer is another one"):
        main([str(run), str(other), "--out", str(tmp_path / "out")])


def test_a_shop_without_queries_is_chosen_by_texts_and_pictures(
    start: Path, tiny_tables: Path, tmp_path: Path
) -> None:
    products = tmp_path / "products"
    shutil.copytree(tiny_tables, products)
    for name in ("queries", "qrels"):
        (products / f"{name}.csv").unlink()
    build_shards(products, tmp_path / "shards", picture_size=40, workers=1)
    alone = tmp_path / "alone"
    shutil.copytree(start, alone)
    settings = load_config([start / "config.yaml"], [f"data.dev={tmp_path / 'shards'}"])
    (alone / "config.yaml").write_text(to_yaml(settings))
    main([str(alone), str(start), "--alpha", "0.5", "--out", str(tmp_path / "out")])
    table = pd.read_csv(tmp_path / "out" / "soup.csv")
    assert set(table["view"]) == {"text", "image"}
    record = json.loads((tmp_path / "out" / "soup.json").read_text())
    # Both ends are one model. What was not asked for is not chosen.
    assert record["dev"]["0.5"] == record["dev"]["1"]
    assert record["chosen"] == "0.5"


def test_the_command_line_is_checked_before_anything_is_loaded(
    run: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for words, said in (
        ([str(run), str(start), "--alpha", "1.5"], "expected a number from 0 to 1, got '1.5'"),
        ([str(run), str(start), "--alpha", "nan"], "expected a number from 0 to 1, got 'nan'"),
        ([str(run), str(start), str(start)], "several runs: only with --average"),
        ([str(run), str(start), "--average", "--alpha", "1"], "averaged with equal weights"),
    ):
        with pytest.raises(SystemExit):
            main(words)
        assert said in capsys.readouterr().err
    with pytest.raises(SystemExit, match=r"error: .*nowhere: no finished model there"):
        main([str(run), str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit, match=r"error: .*no such folder of shards"):
        main([str(run), str(start), "--others", str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit, match=r"error: .*second: is RUN itself"):
        main([str(run), str(run.parent / "first" / ".." / "second")])
    for again in (run, run.parent / "first" / ".." / "second"):
        with pytest.raises(SystemExit, match="error: a run is given twice"):
            main([str(run), str(again), "--average"])
    shop = load_config([run / "config.yaml"]).data.dev
    with pytest.raises(SystemExit, match="error: --others: a shop is given twice"):
        main([str(run), str(start), "--others", shop])


def test_shares_that_differ_have_names_that_differ() -> None:
    shares = {0: "0", 0.25: "0.25", 1.0: "1", 0.3333333: "0.3333333", 1e-7: "1e-07"}
    assert [digits(share) for share in shares] == list(shares.values())
    assert len({digits(1 / 3), digits(0.33333333), digits(0.3333333)}) == 3


def test_a_soup_of_this_folder_lies_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a" / "run").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "run")
    # The word, and a folder of that name.
    assert parse([".", "untouched"]).further == [Path("untouched")]
    assert parse([".", "./untouched"]).further == [Path.cwd() / "untouched"]
    assert parse([".", "untouched"]).out == tmp_path / "a" / "run-soup"
    assert parse(["..", "untouched"]).out == tmp_path / "a-soup"
    assert parse(["../run", "untouched"]).out == Path("../run-soup")


def test_a_query_that_could_not_be_encoded_finds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    queries = pd.DataFrame(
        {"query_id": ["q1", "q2"], "query": ["red", ""], "kind": "query", "asked": ""}
    )
    qrels = pd.DataFrame({"query_id": ["q1", "q2"], "product_id": "p", "relevance": 1.0})
    dev = SimpleNamespace(query_set=SimpleNamespace(queries=queries, qrels=qrels))
    ranking = Ranking(["q1"], np.array([["p"]]), np.array([[1.0]]))
    tasting = Tasting(SimpleNamespace(), [], [])  # type: ignore[arg-type]
    measured = SimpleNamespace(rankings={"product": ranking})
    monkeypatch.setattr(tasting, "measure", lambda *_: measured)
    found = tasting.values(Mix("1", (1.0,)), Shop("home", dev))  # type: ignore[arg-type]
    assert found["product"].to_dict() == {"q1": 1.0, "q2": 0.0}
