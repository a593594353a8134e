"""Writes a page about tables that a person reads before training: counts, faults, a contact sheet.

    python -m data_prep.report TABLES OUT.html

The page is one file that loads nothing. What it lists as rejected is what data_prep.shards rejects.
"""

from __future__ import annotations

import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from beyond_text.config.load import load_config
from beyond_text.config.settings import ConfigError
from beyond_text.config.urls import path_of
from beyond_text.files import write_text
from beyond_text.tables.layouts import TableError
from beyond_text.tables.pictures import MAX_PIXELS
from beyond_text.tables.read import read_tables
from beyond_text.tables.rejects import MAX_REJECTED, RejectError
from beyond_text.tables.tables import Tables
from beyond_text.terminal import at_least, command_parser
from data_prep.adapters import add_layout_options, layout_of
from data_prep.rejects import BuildError, check_max_pixels
from data_prep.report.lengths import EncoderError, length_counter, measure
from data_prep.report.page import render_page
from data_prep.report.sheet import draw_cards
from data_prep.report.usable import read_usable

CARD_SIZE = 128


def write_report(
    tables: Tables,
    out: Path,
    recipe: list[Path] | None = None,
    encoder: str = "",
    max_pixels: int = MAX_PIXELS,
    max_rejected: float = MAX_REJECTED,
    sample: int = 24,
    seed: int = 0,
    workers: int | None = None,
) -> None:
    """Writes the page about `tables` to `out`.

    Args:
        tables: the tables.
        out: the HTML file.
        recipe: recipe files, whose text_encoder.max_length and data.text_fields are taken; None
            for the defaults.
        encoder: folder whose tokenizer counts tokens; "" to count words.
        max_pixels: most pixels a picture's header may announce.
        max_rejected: share of a file's rows above which a build of shards would stop.
        sample: products on the contact sheet.
        seed: of their draw.
        workers: processes that reduce pictures; None for one per core.

    Raises:
        ConfigError, EncoderError: recipe or encoder cannot be read.
        OSError: the page cannot be written.
    """
    if out.is_dir():
        raise FileExistsError(f"{out}: expected a file to write, got a folder")
    check_max_pixels(max_pixels)
    out.parent.mkdir(parents=True, exist_ok=True)
    config = load_config(recipe or [])
    unit, count = length_counter(encoder)
    usable = read_usable(tables, config.data.text_fields, max_pixels, max_rejected, workers)
    limit = config.text_encoder.max_length
    lengths = [
        measured
        for kind, frame in (("product texts", usable.products), ("queries", usable.queries))
        if (measured := measure(kind, frame["text"].tolist(), count, limit))
    ]
    cards = draw_cards(usable, sample, CARD_SIZE, seed, max_pixels)
    # Of "." the name is empty.
    write_text(out, render_page(tables.folder.resolve().name, usable, lengths, unit, cards))


def main(argv: list[str] | None = None) -> int:
    """Writes the page from the command line, or prints the error and returns 1."""
    parser = command_parser("data_prep.report", __doc__)
    parser.add_argument("tables", type=path_of, help="folder of tables, a log or pairs")
    parser.add_argument("out", type=path_of, help="HTML file to write")
    add_layout_options(parser)
    parser.add_argument("--recipe", type=Path, nargs="+", help="recipe files, for the length limit")
    parser.add_argument("--encoder", default="", help="folder whose tokenizer counts tokens")
    parser.add_argument("--dev-share", type=float, default=0.1)
    parser.add_argument("--test-share", type=float, default=0.0)
    parser.add_argument("--pictures", type=Path, help="folder of the pictures, default: TABLES")
    parser.add_argument("--max-pixels", type=int, default=MAX_PIXELS)
    parser.add_argument(
        "--max-rejected", type=float, default=MAX_REJECTED, help="share of a file's rows"
    )
    parser.add_argument("--sample", type=int, default=24, help="products on the contact sheet")
    parser.add_argument("--seed", type=int, default=0, help="of their draw")
    parser.add_argument("--workers", type=at_least(1), help="default: one per core")
    arguments = vars(parser.parse_args(argv))
    if arguments["sample"] < 0:
        parser.error(f"--sample: expected at least 0, got {arguments['sample']}")
    layout = layout_of(arguments.pop("layout"))
    names = "tables", "dev_share", "pictures", "test_share", "grades"
    path, *options = (arguments.pop(option) for option in names)
    try:
        write_report(read_tables(path, layout, *options), **arguments)
    except (
        BuildError, ConfigError, EncoderError, OSError, RejectError, TableError, BrokenProcessPool,
    ) as error:  # fmt: skip
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"written: {arguments['out']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
