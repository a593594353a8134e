"""A run on shards at a URL is that of the folder, from training to search."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from beyond_text import evaluate, index, search
from beyond_text.config.load import load_config
from beyond_text.config.settings import ConfigError
from beyond_text.indexing.index import Index
from beyond_text.train import train
from beyond_text.training.resume import begin, check_view
from data_prep.shards import build_shards
from tests.conftest import write_tiny_tables
from tests.shards.s3 import Bucket, s3_server
from tests.shards.web import Web, serving

pytestmark = pytest.mark.slow

MORE = ["losses.query_product=1", "losses.text_image=1", "data.workers=1", "steps=3"]


@pytest.fixture
def web(tiny_shards: Path) -> Iterator[Web]:
    with serving(tiny_shards) as web:
        yield web


def settings(tiny_settings: list[str], url: str, run: Path) -> list[str]:
    places = [f"data.sources.tables.path={url}", f"data.dev={url}", f"run={run}"]
    return [*tiny_settings, *MORE, *places, f"data.cache_dir={run.parent / 'cache'}"]


def said(function: object, *words: object, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command prints, errors included."""
    capsys.readouterr()
    try:
        function([str(word) for word in words])  # type: ignore[operator]
    except SystemExit as stopped:
        return str(stopped)
    both = capsys.readouterr()
    return both.out + both.err


def test_a_run_from_s3_ends_with_the_weights_of_one_from_a_disk(
    tiny_settings: list[str], tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with s3_server() as endpoint:
        url = Bucket(endpoint, "shop").put(tiny_shards, "shards")
        runs = [tmp_path / "near", tmp_path / "far"]
        metrics = [
            train(load_config([], settings(tiny_settings, place, run)))
            for place, run in zip((str(tiny_shards), url), runs, strict=True)
        ]
        near, far = (load_file(run / "model" / "model.safetensors") for run in runs)
        assert near.keys() == far.keys()
        assert all(near[name].equal(far[name]) for name in near)
        assert metrics[0]["all"] == metrics[1]["all"]
        inputs = [json.loads((run / "inputs.json").read_text()) for run in runs]
        assert inputs[0] == inputs[1]
        # The commands take the URL where they take the folder.
        out = tmp_path / "out"
        for place in (tiny_shards, url):
            evaluate.main(
                [
                    str(runs[0]),
                    "--tables",
                    str(place),
                    "--out",
                    str(out / place.name if isinstance(place, Path) else out / "far"),
                ]
            )
        assert (out / "far" / "run.trec").read_text() == (
            out / tiny_shards.name / "run.trec"
        ).read_text()
        # The title is broken where the console ends.
        assert f"on {url} (dev)" in " ".join(capsys.readouterr().out.split())
        found = [
            said(search.main, runs[1], "red vase", "--top", "3", capsys=capsys),
            said(
                search.main,
                runs[1],
                "red vase",
                "--top",
                "3",
                "--products",
                tiny_shards,
                capsys=capsys,
            ),
        ]
        assert found[0].splitlines()[3:] == found[1].splitlines()[3:]
        line = said(
            index.main,
            url,
            tmp_path / "index",
            "--model",
            runs[1],
            "--copy-pictures",
            capsys=capsys,
        )
        assert "48 products" in line
        assert Index.open(tmp_path / "index").picture("dev.0") is not None
        assert not (Path.cwd() / "s3:").exists()


def test_a_run_goes_on_with_a_password_that_it_never_kept(
    tiny_settings: list[str], web: Web, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    web.password = "s3cret"
    run = tmp_path / "run"
    words = settings(tiny_settings, f"http://me:s3cret@{web.host}/shards", run)
    train(load_config([], words))
    assert web.url in (run / "config.yaml").read_text()
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in kept if b"s3cret" in path.read_bytes()]
    # The same command finds the run finished; a rotated password is no other setting.
    web.password = "n3w"
    other = settings(tiny_settings, f"http://me:n3w@{web.host}/shards", run)
    assert train(load_config([], other)) == json.loads((run / "metrics.json").read_text())
    line = said(search.main, run, "red vase", capsys=capsys)
    assert line.startswith(f"error: {web.url}/manifest.json: access refused")


def test_a_process_that_reads_other_data_names_it_without_the_password(
    tiny_settings: list[str], web: Web, tmp_path: Path
) -> None:
    web.password = "s3cret"
    words = settings(tiny_settings, f"http://me:s3cret@{web.host}/shards", tmp_path / "run")
    config = load_config([], words)
    told = begin(config, 1)
    assert "s3cret" not in str(told)
    check_view(told, config)
    for name in told.inputs:
        with pytest.raises(ConfigError) as raised:
            check_view(told._replace(inputs={name: "another"}), config)
        assert f"where the first process reads {web.url}; every machine" in str(raised.value)


def test_a_manifest_that_changed_since_a_run_began_is_refused_by_setting(
    tiny_settings: list[str], tmp_path: Path
) -> None:
    tables = write_tiny_tables(tmp_path / "tables")
    shards = tmp_path / "shards"
    build_shards(tables, shards, picture_size=40, samples_per_shard=7, workers=1)
    with serving(shards) as web:
        words = settings(tiny_settings, web.url, tmp_path / "run")
        train(load_config([], words))
        build_shards(tables, shards, picture_size=40, samples_per_shard=6, workers=1)
        with pytest.raises(ConfigError, match=r"what data.dev, data.sources.tables held when the"):
            train(load_config([], words))
