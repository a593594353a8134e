"""The command that mines hard negatives: products that a finished run's model ranks too high.

    python -m beyond_text.mine RUN

For every train query of the run's sources it writes the products that are judged 0, then those that
nobody judged and that score highest, below 95 % of the query's positives. mined-train.npy and
mined.json lie beside the shards, where `data.hard_negatives=4` finds them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from beyond_text.config.load import load_config
from beyond_text.config.names import AGAINST, check_finished
from beyond_text.config.settings import Config, ConfigError, Data, Source
from beyond_text.config.urls import path_of, place_of
from beyond_text.terminal import (
    check_writable,
    command_parser,
    errors_in_one_line,
    plain,
    print_table,
)

if TYPE_CHECKING:
    from beyond_text.retrieval.mining import Rule
    from beyond_text.shards.schema import MinedRecord
    from beyond_text.shards.split import Split

# What imports torch is imported in the functions, so that --help and a mistake cost no wait.
NO_URL = "nothing is written to a URL; expected --out FOLDER"


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = command_parser("beyond_text.mine", __doc__)
    parser.add_argument("run", type=path_of, metavar="RUN", help="finished run folder")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--shards", type=place_of, metavar="FOLDER", help="shards or their URL (default: the run's)"
    )
    where.add_argument("--source", metavar="NAME", help="only this one of the run's sources")
    parser.add_argument(
        "--out",
        type=path_of,
        metavar="FOLDER",
        help="where the files go, for data.sources.NAME.mined (default: beside the shards)",
    )
    parser.add_argument(
        "--top", type=int, default=32, metavar="K", help="products of a query (default: 32)"
    )
    parser.add_argument(
        "--below",
        type=float,
        default=0.95,
        metavar="SHARE",
        help="of a positive's score, which what is mined stays below (default: 0.95)",
    )
    parser.add_argument(
        "--against",
        choices=AGAINST,
        default=AGAINST[0],
        help="which of a query's positives that is: its lowest, so that the rule holds for each, "
        "or its best (default: lowest)",
    )
    arguments = parser.parse_args(argv)
    if arguments.top < 1:
        parser.error(f"--top: expected at least 1, got {arguments.top}")
    if not 0 < arguments.below <= 1:
        parser.error(f"--below: expected a share above 0, 1 at most, got {arguments.below:g}")
    return arguments


def sources_of(
    config: Config, shards: Path | str | None, name: str | None, is_out_given: bool = False
) -> dict[str, Source]:
    """Returns the sources whose train queries are mined: those of a run, one of them, or a folder.

    Raises:
        ConfigError: the run has no such source, or none at all; nothing is written to a URL.
    """
    if shards is not None:
        if isinstance(shards, str) and not is_out_given:
            raise ConfigError(f"{shards}: {NO_URL}")
        return {"--shards": Source(path=str(shards))}
    sources = {key: one for key, one in config.data.sources.items() if one.weight > 0}
    if name is not None:
        if name not in config.data.sources:
            known = ", ".join(config.data.sources) or "none"
            raise ConfigError(f"--source: expected one of {known}, got {name!r}")
        return {name: config.data.sources[name]}
    if not sources:
        raise ConfigError("the run names no source; expected --shards FOLDER")
    return sources


def mine(
    run: Path,
    sources: dict[str, Source],
    config: Config,
    out: Path | None,
    rule: Rule,
) -> dict[Path, MinedRecord]:
    """Mines the train queries of sources with a run's model; returns what was written where.

    Sources without judged queries are named and left out. Shards that two share are mined once, for
    the queries of the one that sees more of them.

    Raises:
        CheckpointError: no finished model in `run`.
        ConfigError: no source has queries; several would be written to one folder.
        ShardError: a source is missing or damaged.
        OSError: a folder cannot be written.
    """
    from beyond_text.retrieval.mining import mine as mine_split
    from beyond_text.retrieval.run import load_run
    from beyond_text.shards.mined import manifest_digest, write_mined

    encoder = load_run(run)
    data = replace(config.data, text_fields=encoder.model.settings.text_fields)
    written: dict[Path, MinedRecord] = {}
    for folder, split in splits_of(sources, data, out).items():
        split.verify()
        # Before the work: shards that change meanwhile must not pass for those that were read.
        digest = manifest_digest(split.store)
        found = mine_split(encoder, split, rule)
        is_there = found.rows >= 0
        record: MinedRecord = {
            "manifest": digest,
            "sha256": "",
            "run": str(run),
            "top": found.rows.shape[1],
            "below": rule.below,
            "against": rule.against,
            "queries": int(is_there.any(axis=1).sum()),
            "products": int(is_there.sum()),
            "judged_zero": found.judged_zero,
        }
        write_mined(folder, found.rows, record)
        written[folder] = record
    return written


def splits_of(sources: dict[str, Source], data: Data, out: Path | None) -> dict[Path, Split]:
    """Opens the train split of each source with queries, by the folder that is written.

    Raises:
        ConfigError, ShardError, OSError: as for `mine`.
    """
    from beyond_text.shards.mined import folder_of_mined
    from beyond_text.shards.sources import train_split
    from beyond_text.shards.store import Store

    splits: dict[Path, Split] = {}
    stores: dict[Path, str] = {}
    for name, source in sources.items():
        split = train_split(source, data)
        if not split.has_judgments:
            print(plain(f"source {name}: no judged queries in what training sees of it"))
            continue
        store = Store.of(source.path, data)
        folder = folder_of_mined(store, str(out) if out else source.mined)
        if folder is None:
            raise ConfigError(f"{store}: {NO_URL}")
        if stores.setdefault(folder, str(store)) != str(store):
            raise ConfigError(
                f"{folder}: expected one source, got {stores[folder]} and {store}; "
                "take --source NAME, and a folder for each"
            )
        check_writable(folder)
        # Of fewer labels are some of those of more.
        known = splits.get(folder)
        if known is None or split.kept().number > known.kept().number:
            splits[folder] = split
    if not splits:
        raise ConfigError("no source has judged queries for training to see")
    return splits


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    arguments = parse(argv)
    with errors_in_one_line(RuntimeError):
        check_finished(arguments.run)
        file = arguments.run / "config.yaml"
        config = load_config([file]) if file.is_file() else Config()
        sources = sources_of(
            config, arguments.shards, arguments.source, is_out_given=arguments.out is not None
        )
        from beyond_text.retrieval.mining import Rule

        rule = Rule(arguments.top, arguments.below, arguments.against)
        written = mine(arguments.run, sources, config, arguments.out, rule)
        headings = ("folder", "queries", "products", "of them judged 0", "products a query")
        rows = [
            [
                folder,
                f"{record['queries']:,}",
                f"{record['products']:,}",
                f"{record['judged_zero']:,}",
                f"{record['products'] / max(1, record['queries']):.1f}",
            ]
            for folder, record in written.items()
        ]
        print_table(f"mined by {arguments.run}", headings, [rows], headings[1:])


if __name__ == "__main__":
    main()
