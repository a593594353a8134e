"""A process loads the model of its parts once, and no other than the one that was meant."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from beyond_text.indexing.encoders import Job, encode_by, encoder_of, load_encoder
from beyond_text.indexing.models import model_facts


def test_a_model_is_loaded_once_and_kept(tiny_run: Path, tmp_path: Path) -> None:
    facts = model_facts(tiny_run)
    asked = tiny_run, facts.digest, tmp_path, facts.dim
    encode_by(None)
    first = encoder_of(*asked)
    assert encoder_of(*asked) is first
    narrow = encoder_of(tiny_run, facts.digest, tmp_path, 8)
    assert narrow is not first
    told = Job(facts, tmp_path, facts.dim, threads=3)
    assert load_encoder(told) is encoder_of(*asked)
    encode_by(told)
    assert encoder_of(*asked).job.threads == 3  # type: ignore[attr-defined]
    encode_by(None)


def test_a_model_that_has_changed_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    digest = model_facts(tiny_run).digest
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    weights = run / "model" / "model.safetensors"
    save_file({name: value + 1 for name, value in load_file(weights).items()}, weights)
    encode_by(None)
    with pytest.raises(ValueError, match="not the model that the products are to be encoded by"):
        encoder_of(run, digest, tmp_path, 16)
