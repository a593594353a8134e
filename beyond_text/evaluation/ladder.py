"""Plans ladders: chains of stages that are trained for equally many samples and compared.

A ladder has rows, a row is a chain of stages, and a cell is one row with one seed. `plan` turns
ladders into cells with the settings of every run. Runs that would train the same are planned once.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from omegaconf import OmegaConf

from beyond_text.config.compare import differences
from beyond_text.config.load import load_config
from beyond_text.config.settings import Config, views_of
from beyond_text.evaluation.report import Cell
from beyond_text.metrics.results import METRICS
from beyond_text.models.fusion import FUSIONS
from beyond_text.shards.sources import expected_batches
from beyond_text.training.inputs import check_inputs
from beyond_text.training.steps import with_steps

# Settings that the plan decides, so that neither a row nor an override may set them.
SET_BY_PLAN = {"start", "run", "seed"}
# The form of a file of rows.
ROWS = "rows as `name: [stage, ...]`"
# The words in a stage's text that set fields of `Stage` by their names.
MARKS = ("merged", "fixed")
AGAIN = "remove it or choose another --out"


class Stage(NamedTuple):
    """One training of a chain: its recipe files, and `key=value` words on top of them.

    With `merged`, it takes as many batches of each source as all stages of the first row together.
    With `fixed`, it keeps its steps where those of a chain are scaled.
    """

    recipes: tuple[Path, ...]
    words: tuple[str, ...]
    merged: bool = False
    fixed: bool = False


class Row(NamedTuple):
    """A named chain of stages."""

    name: str
    stages: tuple[Stage, ...]


class Ladder(NamedTuple):
    """Rows to compare with the first of them, all from the weights of `start` or, if None, none.

    All see as many samples as the reference does, which is the first row unless another is named.
    """

    name: str
    rows: Sequence[Row]
    seeds: Sequence[int]
    start: Path | None
    reference: Row | None = None


def fusion_rows(fusions: Sequence[str], recipes: Sequence[Path]) -> list[Row]:
    """Returns a row of one stage for each fusion.

    Raises:
        ValueError: a fusion that `FUSIONS` does not have.
    """
    for name in fusions:
        if name not in FUSIONS:
            raise ValueError(f"unknown fusion {name!r}: expected some of {', '.join(FUSIONS)}")
    return [Row(name, (Stage(tuple(recipes), _fusion_words(name)),)) for name in fusions]


def _fusion_words(fusion: str) -> tuple[str, ...]:
    """Returns the settings of a fusion's row; without pictures, its losses see none either."""
    blind = "image" not in FUSIONS[fusion].uses
    return (f"fusion={fusion}", *(["losses.query_image=0"] if blind else []))


def read_rows(path: Path) -> list[Row]:
    """Reads rows from YAML: `name: [recipe.yaml key=value ..., ...]`, with a text for each stage.

    Recipes are relative to the file. The words `merged` and `fixed` set what `Stage` says.

    Raises:
        ValueError: the file is missing or holds no such rows; names the file and the row.
    """
    return rows_of(path, read_mapping(path, "rows", ROWS))


def read_mapping(path: Path, what: str, form: str) -> dict[Any, Any]:
    """Reads a file of rows, or of something else, as it stands; errors name what, and its form.

    Raises:
        ValueError: it is missing, or no mapping.
    """
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: no {what} to read: {' '.join(str(error).split())}") from None
    if not (content and isinstance(content, dict)):
        raise ValueError(f"{path}: expected {form}")
    return content


def word_of(value: object) -> str:
    """Writes the value of a setting as in a `key=value` word."""
    return value if isinstance(value, str) else json.dumps(value)


def rows_of(path: Path, content: Mapping[Any, Any]) -> list[Row]:
    """Parses the rows of a file, as `read_rows` says."""
    return [_row(path, name, stages) for name, stages in content.items()]


def _row(path: Path, name: Any, stages: Any) -> Row:
    """Parses one row of a file."""
    texts = stages if isinstance(stages, list) else []
    # The name is also a folder's, in which a dash precedes the seed.
    named = isinstance(name, str) and re.fullmatch(r"\w[\w.-]*", name)
    if not (named and texts and all(isinstance(text, str) for text in texts)):
        raise ValueError(
            f"{path}: row {name!r}: expected a name of letters, digits, - and _, with a list of "
            "stages such as [stage2.yaml, stage3.yaml losses.query_image=0]"
        )
    return Row(name, tuple(_stage(path, name, text) for text in texts))


def _stage(path: Path, row: str, text: str) -> Stage:
    """Parses the text of one stage."""
    words = [word for word in text.split() if word not in MARKS]
    settings = [word for word in words if "=" in word]
    recipes = [path.parent / word for word in words if "=" not in word]
    if not recipes:
        raise ValueError(f"{path}: row {row!r}: stage {text!r} names no recipe file")
    return Stage(tuple(recipes), tuple(settings), **{m: m in text.split() for m in MARKS})


def plan(
    ladders: Sequence[Ladder],
    settings: Path,
    overrides: Sequence[str],
    out: Path,
    known: Sequence[Config] = (),
    only: Collection[str] = (),
) -> dict[Cell, list[Config]]:
    """Returns the cells, by row and then by seed, with the settings of each stage in order.

    The stages of every row see as many samples together as those of the ladder's reference. A
    stage that trains the same as one planned before it, or as one of `known`, from the same
    weights, is that run. Where rows are named in `only`, no others are returned.

    Raises:
        ValueError: a ladder, row or seed named twice, an unfinished start, or what `configure`
            and `with_samples` refuse; names the row.
    """
    check_distinct(ladder.name for ladder in ladders)
    check_distinct(row.name for ladder in ladders for row in ladder.rows)
    cells: dict[Cell, list[Config]] = {}
    planned: list[Config] = list(known)
    for ladder in ladders:
        check_distinct(ladder.seeds)
        if ladder.start and not (ladder.start / METRICS).exists():
            raise ValueError(f"{ladder.start} is not a finished run (no {METRICS}): train it first")
        reference = ladder.reference or ladder.rows[0]
        with errors_named(reference.name):
            first = [configure(s, ladder.seeds[0], settings, overrides) for s in reference.stages]
        for row, seed in product(ladder.rows, ladder.seeds):
            try:
                with errors_named(row.name):
                    chain = [configure(stage, seed, settings, overrides) for stage in row.stages]
                    chain = matched(chain, row, first)
            except ValueError:
                # A row that is not asked for may set what an override sets.
                if not only or row.name in only:
                    raise
                continue
            folders = _folders(row, out / f"{row.name}-seed{seed}")
            chain = linked(chain, folders, str(ladder.start or ""), planned)
            planned += chain
            if not only or row.name in only:
                runs = tuple(Path(config.run) for config in chain)
                cells[Cell(ladder.name, row.name, seed, runs)] = chain
    return cells


@contextmanager
def errors_named(name: str) -> Iterator[None]:
    """Puts the name of a row, or of an entry of a grid, before a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def configure(stage: Stage, seed: int, settings: Path, overrides: Sequence[str]) -> Config:
    """Returns the settings of a stage: the file `settings`, its recipes, the overrides, its words.

    Raises:
        ValueError: an override of what the row or the plan decides, or an unknown setting.
    """
    set_by_stage, overridden = keys_of(stage.words), keys_of(overrides)
    if taken := (set_by_stage & overridden) | ((set_by_stage | overridden) & SET_BY_PLAN):
        raise ValueError(f"{', '.join(sorted(taken))}: set by the ablation, cannot be overridden")
    # A stopped ladder goes on, whatever START was told to do.
    words = ["resume=auto", *overrides, *stage.words, f"seed={seed}"]
    return with_steps(load_config([settings, *stage.recipes], words), is_lent=True)


def keys_of(words: Sequence[str]) -> set[str]:
    """Returns the keys of `key=value` words."""
    return {word.partition("=")[0] for word in words}


def matched(chain: Sequence[Config], row: Row, first: Sequence[Config]) -> list[Config]:
    """Gives a chain the samples of the first row, and its merged stages that row's batches."""
    chain = with_samples(chain, _samples(first), [stage.fixed for stage in row.stages])
    if not any(stage.merged for stage in row.stages):
        return chain
    batches = expected_batches(first)
    return [
        with_batches(config, batches) if stage.merged else config
        for config, stage in zip(chain, row.stages, strict=True)
    ]


def with_samples(chain: Sequence[Config], samples: int, fixed: Sequence[bool] = ()) -> list[Config]:
    """Scales the steps of a chain so that its stages see `samples` samples together.

    Samples are products, however many queries each has in a batch. Steps are rounded, and the last
    stage takes the remainder: the sum is exact where its batch size divides what is left, as with
    one batch size it does, and otherwise within half a batch. Stages that are `fixed` keep theirs;
    where all are, the chain is returned as it is.

    Raises:
        ValueError: too few samples for a step of each stage.
    """
    if any(fixed):
        free = [stage for stage, kept in zip(chain, fixed, strict=True) if not kept]
        rest = samples - _samples(chain) + _samples(free)
        scaled = iter(with_samples(free, rest) if free else [])
        return [c if kept else next(scaled) for c, kept in zip(chain, fixed, strict=True)]
    before = _samples(chain)
    if before == samples:
        return list(chain)
    steps = [max(1, round(stage.total_steps * samples / before)) for stage in chain[:-1]]
    seen = sum(n * _samples_per_step(stage) for n, stage in zip(steps, chain, strict=False))
    steps.append(round((samples - seen) / _samples_per_step(chain[-1])))
    if steps[-1] < 1:
        raise ValueError(f"{samples} samples are too few for {len(chain)} stages")
    return [replace(c, steps=n, budget=1.0) for n, c in zip(steps, chain, strict=True)]


def _samples(chain: Sequence[Config]) -> int:
    return sum(stage.total_steps * _samples_per_step(stage) for stage in chain)


def _samples_per_step(config: Config) -> int:
    return config.batch_size * config.accumulate


def with_batches(config: Config, batches: Mapping[str, float]) -> Config:
    """Weights each source by its number of batches; a source without any gets weight 0."""
    sources = {
        name: replace(source, weight=round(batches.get(name, 0), 3))
        for name, source in config.data.sources.items()
    }
    return replace(config, data=replace(config.data, sources=sources))


def _folders(row: Row, folder: Path) -> list[Path]:
    """Returns the run folder of each stage of a row; a single stage is trained in `folder`."""
    if len(row.stages) == 1:
        return [folder]
    names = [stage.recipes[0].stem for stage in row.stages]
    return [folder / f"{number}-{name}" for number, name in enumerate(names, start=1)]


def linked(
    chain: Sequence[Config], folders: Sequence[Path], start: str, planned: Sequence[Config]
) -> list[Config]:
    """Starts each stage from the one before; a stage that is already planned is that run."""
    linked: list[Config] = []
    for stage, folder in zip(chain, folders, strict=True):
        config = replace(stage, start=start, run=str(folder))
        # Settings include the start, so equal settings mean an equal history.
        same = (known for known in planned if not differences(known, config))
        linked.append(next(same, config))
        start = linked[-1].run
    return linked


def check_distinct(names: Iterable[object]) -> None:
    """Raises a ValueError where a name comes twice."""
    if repeated := [str(name) for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"named twice: {', '.join(repeated)}")


def check_chains(chains: Iterable[Sequence[Config]]) -> None:
    """Refuses run folders of other settings or inputs, before anything is trained.

    Raises:
        ValueError: names the run, and the settings that differ.
    """
    for chain in chains:
        for config in chain:
            _check_settings(config)
            check_inputs(config, AGAIN)


def _check_settings(config: Config) -> None:
    """Raises a ValueError where the run's folder was begun with other settings."""
    path = Path(config.run) / "config.yaml"
    if not path.exists():
        return
    # The start's folder may have moved; what it holds is compared by `check_inputs`.
    begun = replace(load_config([path]), start=config.start)
    if differing := differences(begun, config):
        raise ValueError(
            f"{config.run} was trained with other settings: {', '.join(differing)}; {AGAIN}"
        )


def check_untrained_fusion(start: Path) -> None:
    """Refuses a start whose fusion was trained: only the row of that fusion would profit from it.

    Raises:
        ValueError: names the start.
    """
    settings = start / "config.yaml"
    if not settings.is_file():
        return
    config = load_config([settings])
    if config.rates.fusion and "product" in views_of(config):
        raise ValueError(
            f"{start} has trained its fusion: the row of the same one would go on with it while "
            "all others begin anew; expected a run before that, such as stage 2's"
        )
