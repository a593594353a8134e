"""TODO evaluation.ladder."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from omegaconf import OmegaConf

from beyond_text.config.load import load_config
from beyond_text.config.settings import Config, views_of
from beyond_text.evaluation.report import Cell
from beyond_text.metrics.results import METRICS
from beyond_text.models.fusion import FUSIONS
from beyond_text.shards.sources import expected_batches
from beyond_text.training.resume import check_inputs, differences

RECIPES = Path(__file__).parents[2] / "recipes"
STAGE3 = RECIPES / "stage3.yaml"
CURRICULUM = RECIPES / "ladder" / "curriculum.yaml"
# What a row cannot set: it follows from the row itself.
SET_BY_ROW = {"start", "run", "seed"}
# The word in a stage's text that stands for `Stage.merged`.
MERGED = "merged"


class Stage(NamedTuple):
    """One training of a chain: its recipe files, and `key=value` words on top of them.

    With `merged`, it takes as many batches of each source as all stages of the first row together.
    """

    recipes: tuple[Path, ...]
    words: tuple[str, ...]
    merged: bool = False


class Row(NamedTuple):
    """A chain of stages, by name."""

    name: str
    stages: tuple[Stage, ...]


class Ladder(NamedTuple):
    """Rows to compare with the first of them, all begun from `start`, or untouched without one."""

    name: str
    rows: Sequence[Row]
    seeds: Sequence[int]
    start: Path | None


def fusion_rows(fusions: Sequence[str], recipes: Sequence[Path]) -> list[Row]:
    """Gives a row of one stage for each fusion.

    Raises:
        ValueError: a fusion that `FUSIONS` does not have.
    """
    for name in fusions:
        if name not in FUSIONS:
            raise ValueError(f"unknown fusion {name!r}: expected some of {', '.join(FUSIONS)}")
    return [Row(name, (Stage(tuple(recipes), _settings_of(name)),)) for name in fusions]


def _settings_of(fusion: str) -> tuple[str, ...]:
    """A control without pictures is a system that never sees one, in its losses either."""
    blind = "image" not in FUSIONS[fusion].uses
    return (f"fusion={fusion}", *(["losses.query_image=0"] if blind else []))


def read_rows(path: Path) -> list[Row]:
    """Reads rows from YAML, each `name: [recipe.yaml key=value ..., ...]`, a text for each stage.

    Recipes lie relative to the file. The word `merged` is that of `Stage`.

    Raises:
        ValueError: a file that is not there or holds no such rows; names the file and the row.
    """
    try:
        found = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: no rows to read: {' '.join(str(error).split())}") from None
    if not (found and isinstance(found, dict)):
        raise ValueError(f"{path}: expected rows as `name: [stage, ...]`")
    return [_row(path, name, stages) for name, stages in found.items()]


def _row(path: Path, name: Any, stages: Any) -> Row:
    texts = stages if isinstance(stages, list) else []
    # The name is also a folder's, where a dash stands before the seed.
    named = isinstance(name, str) and re.fullmatch(r"\w[\w.-]*", name)
    if not (named and texts and all(isinstance(text, str) for text in texts)):
        raise ValueError(
            f"{path}: row {name!r}: expected a name of letters, digits, - and _, with a list of "
            "stages such as [stage2.yaml, stage3.yaml losses.query_image=0]"
        )
    parsed = []
    for text in texts:
        given = [word for word in text.split() if word != MERGED]
        words = [word for word in given if "=" in word]
        recipes = [path.parent / word for word in given if "=" not in word]
        if not recipes:
            raise ValueError(f"{path}: row {name!r}: stage {text!r} names no recipe file")
        parsed.append(Stage(tuple(recipes), tuple(words), MERGED in text.split()))
    return Row(name, tuple(parsed))


def plan(
    ladders: Sequence[Ladder], settings: Path, overrides: Sequence[str], out: Path
) -> dict[Cell, list[Config]]:
    """Gives the cells, by row and then by seed, with the settings of each one's stages in order.

    The stages of every row see as many samples together as those of the ladder's first row. A
    stage that trains the same as one planned before it, from the same weights, is that run.

    Raises:
        ValueError: a ladder, row or seed named twice, an unfinished start, or what `configure`
            and `with_samples` refuse; names the row.
    """
    _check_distinct(ladder.name for ladder in ladders)
    _check_distinct(row.name for ladder in ladders for row in ladder.rows)
    cells: dict[Cell, list[Config]] = {}
    planned: list[Config] = []
    for ladder in ladders:
        _check_distinct(ladder.seeds)
        if ladder.start and not (ladder.start / METRICS).exists():
            raise ValueError(
                f"{ladder.start} is not a finished run (no metrics.json): train it first"
            )
        first: list[Config] = []
        for row, seed in product(ladder.rows, ladder.seeds):
            try:
                chain = [configure(stage, seed, settings, overrides) for stage in row.stages]
                first = first or chain
                chain = with_samples(chain, _samples(first))
                if any(stage.merged for stage in row.stages):
                    batches = expected_batches(first)
                    chain = [
                        with_batches(config, batches) if stage.merged else config
                        for config, stage in zip(chain, row.stages, strict=True)
                    ]
            except ValueError as error:
                raise ValueError(f"{row.name}: {error}") from None
            folders = _folders(row, out / f"{row.name}-seed{seed}")
            chain = _linked(chain, folders, str(ladder.start or ""), planned)
            planned += chain
            runs = tuple(Path(config.run) for config in chain)
            cells[Cell(ladder.name, row.name, seed, runs)] = chain
    return cells


def _folders(row: Row, folder: Path) -> list[Path]:
    """Where the stages of a row are trained: a single one in the folder itself."""
    if len(row.stages) == 1:
        return [folder]
    names = [stage.recipes[0].stem for stage in row.stages]
    return [folder / f"{number}-{name}" for number, name in enumerate(names, start=1)]


def _linked(
    chain: Sequence[Config], folders: Sequence[Path], start: str, planned: Sequence[Config]
) -> list[Config]:
    """Lets each stage begin with the weights of the one before; one planned already is that run."""
    linked: list[Config] = []
    for stage, folder in zip(chain, folders, strict=True):
        config = replace(stage, start=start, run=str(folder))
        # Settings include the start, so equal settings are an equal history.
        same = (known for known in planned if not differences(known, config))
        linked.append(next(same, config))
        start = linked[-1].run
    return linked


def configure(stage: Stage, seed: int, settings: Path, overrides: Sequence[str]) -> Config:
    """Gives the settings of a stage: the file `settings`, its recipes, the overrides, its words.

    Raises:
        ValueError: an override of what the row or the ablation decides, or an unknown setting.
    """
    words, asked = _keys(stage.words), _keys(overrides)
    if taken := (words & asked) | ((words | asked) & SET_BY_ROW):
        raise ValueError(f"{', '.join(sorted(taken))}: set by the ablation, cannot be overridden")
    return load_config([settings, *stage.recipes], [*overrides, *stage.words, f"seed={seed}"])


def _keys(words: Sequence[str]) -> set[str]:
    return {word.partition("=")[0] for word in words}


def with_samples(chain: Sequence[Config], samples: int) -> list[Config]:
    """Scales the steps of a chain so that its stages see `samples` samples together.

    Samples are products, however many queries ask for each of them. Steps are rounded, and the last
    stage takes the remainder: the sum is exact where its batch size divides what is left, as with
    one batch size it does, and else within half a batch.

    Raises:
        ValueError: too few samples for a step of each stage.
    """
    found = _samples(chain)
    if found == samples:
        return list(chain)
    steps = [max(1, round(stage.total_steps * samples / found)) for stage in chain[:-1]]
    seen = sum(n * _samples_a_step(stage) for n, stage in zip(steps, chain, strict=False))
    steps.append(round((samples - seen) / _samples_a_step(chain[-1])))
    if steps[-1] < 1:
        raise ValueError(f"{samples} samples are too few for {len(chain)} stages")
    return [replace(c, steps=n, budget=1.0) for n, c in zip(steps, chain, strict=True)]


def with_batches(config: Config, batches: Mapping[str, float]) -> Config:
    """Weighs each source by its batches; one that has none is left out."""
    sources = {
        name: replace(source, weight=round(batches.get(name, 0), 3))
        for name, source in config.data.sources.items()
    }
    return replace(config, data=replace(config.data, sources=sources))


def _samples_a_step(config: Config) -> int:
    return config.batch_size * config.accumulate


def _samples(chain: Sequence[Config]) -> int:
    return sum(stage.total_steps * _samples_a_step(stage) for stage in chain)


def _check_distinct(names: Iterable[object]) -> None:
    if twice := [str(name) for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"named twice: {', '.join(twice)}")


def check_settings(config: Config) -> None:
    """Refuses a run folder that was begun with other settings; names the keys.

    Raises:
        ValueError: as said.
    """
    path = Path(config.run) / "config.yaml"
    if not path.exists():
        return
    # Folders may have moved; what they hold is compared by `check_inputs`.
    found = replace(load_config([path]), start=config.start)
    if differing := differences(found, config):
        raise ValueError(
            f"{config.run} was trained with other settings: {', '.join(differing)}; "
            "remove it or choose another --out"
        )


def check_chains(chains: Iterable[Sequence[Config]]) -> None:
    """Refuses what is stale in the folders of some chains, before anything is trained.

    Raises:
        ValueError: as `check_settings` and `check_inputs`.
    """
    for chain in chains:
        for config in chain:
            check_settings(config)
            check_inputs(config)


def check_untrained_fusion(start: Path) -> None:
    settings = start / "config.yaml"
    if not settings.is_file():
        return
    config = load_config([settings])
    if config.rates.fusion and "product" in views_of(config):
        raise ValueError(
            f"{start} has trained its fusion: the row of the same one would go on with it while "
            "all others begin anew; expected a run before that, such as stage 2's"
        )
