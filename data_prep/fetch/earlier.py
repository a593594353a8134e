"""Says what earlier runs have fetched, by their tables and by the files that are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from data_prep.fetch.slices import STATUS, left_outcomes, outcome_on_disk, remove_plans
from data_prep.fetch.status import FETCHED, Outcome, read_outcomes, write_outcomes
from data_prep.rejects import BuildError

# Held by whoever fetches into the folder.
LOCK = ".lock"


def outcomes_before(out: Path, urls: Sequence[str], shared: bool) -> dict[str, Outcome]:
    """Returns what earlier runs did and is still there; removes what a killed one left half done.

    The jobs of an array, which `shared` is for, remove nothing and take up nothing of each other.

    Raises:
        BuildError: a table of outcomes is not ours.
    """
    try:
        outcomes = read_outcomes(out / STATUS)
        left = {} if shared else left_outcomes(out)
    except ValueError as error:
        raise BuildError(str(error)) from error
    outcomes |= {url: counted(outcome, outcomes) for url, outcome in left.items()}
    for url in urls:
        outcome = outcomes.get(url)
        if outcome and outcome.status == FETCHED and not _is_whole(out, outcome):
            outcomes[url] = outcome._replace(status="lost", file="", bytes=0)
        elif outcome is None and not shared and (found := outcome_on_disk(out, url)):
            outcomes[url] = found
    if not shared:
        for partial in out.glob("images/??/.*"):
            partial.unlink()
        write_outcomes(out / STATUS, outcomes.values())
        remove_plans(out)
    elif not (out / STATUS).is_file():
        write_outcomes(out / STATUS, ())
    return outcomes


def counted(outcome: Outcome, before: Mapping[str, Outcome]) -> Outcome:
    """Adds the attempts of earlier runs."""
    earlier = before[outcome.url].attempts if outcome.url in before else 0
    return outcome._replace(attempts=outcome.attempts + earlier)


def _is_whole(out: Path, outcome: Outcome) -> bool:
    """Says whether a picture's file is there, with the bytes that were fetched."""
    path = out / outcome.file
    return path.is_file() and path.stat().st_size == outcome.bytes
