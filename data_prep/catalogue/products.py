"""Makes the products of the built-in catalogue: designs, their variants, and their common text.

A design (`group_id`) is a brand's series in one kind, shape and material. Its variants differ in
what only the picture shows, colour and pattern, and carry the very same title and description; so
text alone cannot tell them apart, and the picture alone cannot tell brands and features apart.
The split is by design: of each kind every sixth design is dev, and another sixth is test.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from data_prep.catalogue.vocabulary import BRANDS, COLOURS, FEATURES, KINDS, PATTERNS

SHARE_WITHOUT_IMAGE = 0.06
SHARE_WITHOUT_DESCRIPTION = 0.08
# Recipes are tuned on dev; test is for the numbers that are reported.
SPLITS = ("dev", "test", "train", "train", "train", "train")
VARIANTS = (3, 7)  # least and most products of a design


class Design(NamedTuple):
    """What the variants of a design share; `description` may be empty."""

    group_id: str
    split: str
    kind: str
    shape: str
    brand: str
    series: str
    material: str
    features: tuple[str, ...]
    title: str
    description: str


class Product(NamedTuple):
    """One article with its true attributes; `number` is its row and seeds its drawing."""

    number: int
    product_id: str
    design: Design
    colour: str
    pattern: str
    has_image: bool

    @property
    def image(self) -> str:
        """Path of the picture relative to the tables' folder; empty where there is none."""
        return f"images/{self.number % 100:02d}/{self.product_id}.jpg" if self.has_image else ""


def make_products(count: int, seed: int) -> list[Product]:
    """Makes exactly `count` products, the same for the same seed.

    Exactly `round(0.06 count)` of them have no picture; at least 8 % have no description (whole
    designs, so at most one design more).

    Raises:
        ValueError: `count` is not positive or beyond what the vocabulary can name.
    """
    rng = np.random.default_rng([seed, 0xDE51])
    designs = _designs(rng, count)
    sizes = _sizes(rng, count, len(designs))
    bare = _bare_designs(rng, sizes)
    imageless = set(rng.permutation(count)[: round(SHARE_WITHOUT_IMAGE * count)].tolist())
    products: list[Product] = []
    for number, (design, size) in enumerate(zip(designs, sizes, strict=True)):
        if number in bare:
            design = design._replace(description="")
        for colour, pattern in _looks(rng, size):
            row = len(products)
            products.append(
                Product(row, f"bt-{row:05d}", design, colour, pattern, row not in imageless)
            )
    return products


def _sizes(rng: np.random.Generator, count: int, designs: int) -> list[int]:
    """Draws each design's number of variants, within VARIANTS if possible; the sum is `count`."""
    low, high = VARIANTS
    sizes = rng.integers(low, high + 1, designs)
    # Reach the exact total one variant at a time; a catalogue of fewer products has one design.
    while (gap := count - int(sizes.sum())) != 0:
        free = np.flatnonzero(sizes < high) if gap > 0 else np.flatnonzero(sizes > 1)
        sizes[rng.choice(free)] += np.sign(gap)
    return [int(size) for size in sizes]


def _bare_designs(rng: np.random.Generator, sizes: list[int]) -> set[int]:
    """Draws the designs that have no description."""
    target = SHARE_WITHOUT_DESCRIPTION * sum(sizes)
    bare: set[int] = set()
    for number in rng.permutation(len(sizes)).tolist():
        if sum(sizes[other] for other in bare) >= target:
            break
        bare.add(number)
    return bare


def _looks(rng: np.random.Generator, size: int) -> list[tuple[str, str]]:
    """Draws distinct (colour, pattern) pairs; a design comes in few patterns, as series do."""
    colours = rng.permutation(list(COLOURS))
    patterns = rng.choice(list(PATTERNS), min(3, size), replace=False)
    return [(str(colours[row]), str(patterns[row % len(patterns)])) for row in range(size)]


def _designs(rng: np.random.Generator, count: int) -> list[Design]:
    """Makes the designs of `count` products."""
    wanted = max(1, round(count / (sum(VARIANTS) / 2)))
    owners = [(brand, series) for brand, names in BRANDS.items() for series in names]
    kinds = rng.permutation(list(KINDS)).tolist()
    orders = {kind: rng.permutation(len(owners)).tolist() for kind in kinds}
    rounds = min(len(kind.shapes) for kind in KINDS.values()) * len(owners)
    if count < 1 or wanted > rounds * len(kinds):
        most = int(rounds * len(kinds) * sum(VARIANTS) / 2)
        raise ValueError(f"products: expected 1 to {most}, got {count}")
    designs = []
    for number in range(wanted):
        column, row = number % len(kinds), number // len(kinds)
        brand, series = owners[orders[kinds[column]][row % len(owners)]]
        # A second pass over the series takes another shape, so no design comes twice.
        shift = row // len(owners)
        # A Latin square: each kind has its share of designs in every split, whatever the size.
        split = SPLITS[(column + row) % len(SPLITS)]
        designs.append(_design(rng, kinds[column], brand, series, shift, split))
    return designs


def _design(
    rng: np.random.Generator, name: str, brand: str, series: str, shift: int, split: str
) -> Design:
    """Makes one design and its text."""
    kind = KINDS[name]
    # The first shape follows from the series alone, for shifts to stay distinct.
    shape = kind.shapes[(len(series) + ord(series[0]) + shift) % len(kind.shapes)]
    material = str(rng.choice(kind.materials))
    count = 1 + int(rng.random() < 0.4)
    features = tuple(map(str, rng.choice(kind.features, count, replace=False)))
    noun = str(rng.choice(kind.nouns))
    in_title = rng.random() < 0.2
    title = f"{brand} {series} {material if in_title else ''} {noun}".replace("  ", " ")
    sentences = [str(rng.choice(kind.uses))]
    if rng.random() < 0.6:
        sentences.append(f"Made of {material}.")
    sentences += [str(rng.choice(FEATURES[feature].sentences)) for feature in features]
    if rng.random() < 0.5:
        sentences.append(f"Size: {rng.choice(kind.sizes)}.")
    slug = f"{brand}-{series}-{name}-{shape}".lower().replace(" ", "-")
    return Design(
        slug, split, name, shape, brand, series, material, features, title, " ".join(sentences)
    )
