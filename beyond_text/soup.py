"""The command that mixes weights: of a run with its start, or of several runs.

    python -m beyond_text.soup RUN START --alpha 0 0.25 0.5 0.75 1 --others SHARDS ...
    python -m beyond_text.soup RUN RUN2 RUN3 --average

The first takes alpha * RUN + (1 - alpha) * START, which keeps more of what START could do on other
shops (WiSE-FT, arXiv 2109.01903). START is a run folder, or the word `untouched`: the encoders as
they came, with the projections and the fusion that RUN, or the first of the stages before it, began
with. Where START has another fusion block, RUN's is taken at every alpha. The second averages runs
that are made alike, all of them and greedily (model soups, arXiv 2203.05482).

Of the mixtures asked for, the one that is best on RUN's dev split is written to OUT, as a run that
`evaluate`, `export`, `index` and `train ... start=OUT` take. OUT has soup.md, soup.csv, soup.png
and soup.json, too: every mixture on every shop.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from beyond_text.config.names import UNTOUCHED, check_finished
from beyond_text.config.urls import path_of, place_of
from beyond_text.terminal import check_writable, command_parser, errors_in_one_line, plain

# What imports torch is imported in `main`, so that --help and a mistake cost no wait.
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = command_parser("beyond_text.soup", __doc__)
    # fmt: off
    add = parser.add_argument
    add("run", type=path_of, metavar="RUN", help="finished run folder")
    add("further", type=_start, nargs="+", metavar="START",
        help="a finished run folder or `untouched`; with --average, further runs")
    add("--alpha", type=_share, nargs="+", metavar="A",
        help="shares of RUN, 0 to 1 (default: 0 0.25 0.5 0.75 1); 1 is always measured as well")
    add("--average", action="store_true", help="average all the runs instead")
    add("--others", type=place_of, nargs="+", default=[], metavar="SHARDS",
        help="other shops to report, whose split of RUN's data.dev_split is measured: shards, "
        "their URL, or tables")
    add("--out", type=path_of, help="run folder to write (default: RUN-soup)")
    # fmt: on
    arguments = parser.parse_args(argv)
    if not arguments.average and len(arguments.further) > 1:
        parser.error("several runs: only with --average; else RUN and START")
    if arguments.average and arguments.alpha:
        parser.error("--alpha: runs are averaged with equal weights")
    # Of `.` and `..` the name is elsewhere.
    run = arguments.run if arguments.run.name.strip(".") else arguments.run.resolve()
    arguments.out = arguments.out or run.with_name(f"{run.name or 'run'}-soup")
    return arguments


def _start(text: str) -> Path:
    """Returns the path of a run; of a folder `./untouched` one that is not the word."""
    path = path_of(text)
    return path.absolute() if text != UNTOUCHED and str(path) == UNTOUCHED else path


def _share(text: str) -> float:
    """Returns a share from 0 to 1.

    Raises:
        ArgumentTypeError: it is none.
    """
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")
    return share


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    arguments = parse(argv)
    run, further, out = arguments.run, arguments.further, arguments.out
    from_untouched = not arguments.average and str(further[0]) == UNTOUCHED
    with errors_in_one_line(RuntimeError):
        for each in (run, *(() if from_untouched else further)):
            check_finished(each)
            if each.resolve() == out.resolve():
                raise ValueError(f"--out: expected another folder than those mixed, got {out}")
        for place in arguments.others:
            if isinstance(place, Path) and not place.exists():
                raise FileNotFoundError(f"{place}: no such folder of shards or tables")
        check_writable(out)
        from beyond_text.evaluation.soup import average, interpolate, is_ours
        from beyond_text.files import check_replaceable
        from beyond_text.shards.store import folder_of

        check_replaceable(out, is_ours)
        others = [folder_of(place) for place in arguments.others]
        if arguments.average:
            text = average([run, *further], others, out)
        else:
            alphas = arguments.alpha or ALPHAS
            text = interpolate(run, str(further[0]), alphas, others, out)
        print(text)
        print(plain(f"written to {out}"))


if __name__ == "__main__":
    main()
