"""Writes the built-in catalogue as tables and pictures: `python -m data_prep.catalogue OUT`."""

from __future__ import annotations

from pathlib import Path

from beyond_text.terminal import command_parser, one_line
from data_prep.catalogue.build import build_catalogue, contact_sheet


def main() -> None:
    """Parses the command line and builds; a bad argument ends with a message and status 2."""
    parser = command_parser("data_prep.catalogue", __doc__)
    parser.add_argument("out", type=Path, help="folder to write; replaced if it is a catalogue")
    parser.add_argument("--products", type=int, default=2400, help="how many (default: 2400)")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same bytes (default: 0)")
    parser.add_argument("--size", type=int, default=192, help="pixels a side (default: 192)")
    parser.add_argument("--workers", type=int, help="drawing processes (default: all cores)")
    parser.add_argument(
        "--lookups", action="store_true", help="with queries for numbers and brands too"
    )
    parser.add_argument("--sheet", type=Path, help="also write a contact sheet, a PNG file")
    arguments = parser.parse_args()
    try:
        facts = build_catalogue(
            arguments.out,
            arguments.products,
            arguments.seed,
            arguments.size,
            arguments.workers,
            arguments.lookups,
        )
        if arguments.sheet:
            contact_sheet(arguments.sheet, arguments.products, arguments.seed)
    except (ValueError, OSError) as error:
        parser.error(one_line(error))
    print(", ".join(f"{name} {value}" for name, value in facts.items()), "->", arguments.out)


if __name__ == "__main__":
    main()
