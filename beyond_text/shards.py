"""WebDataset shards in, samples out, in an order that (seed, epoch) alone decides.

A sample is a product: its JSON and, where there is one, its picture; a JSON parser and an
allow-listed picture decoder are the only parsers, nothing is unpickled. Pictures of queries lie in
shards of their own, once however many products answer them. Samples are read by number, so a worker
reads just its own and any number of workers gives the same batches. Shards are shuffled, then
samples within a window of shards, so that reading stays local however large the set is.

Within a window, samples of one category may stand together in short runs: hard negatives.

A sample that is not what it should be is skipped and counted; a shard that is not is an error.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64
from msgspec import ValidationError
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from beyond_text.archive import SampleError, Shards
from beyond_text.batch import NOTHING, OWN, Judgement, Sample
from beyond_text.collate import key_of
from beyond_text.config import OBJECTIVE_VIEWS
from beyond_text.manifest import ShardError, check_sizes, check_sums, files_of, read_manifest
from beyond_text.pictures import PictureError, decode_pixels
from beyond_text.schema import CATEGORY, UNFIT, sample_decoder

WINDOW = 16
Numbers = Int64[np.ndarray, " samples"]
# Shuffled numbers, and what is random, to the same numbers in another order.
Order = Callable[[Numbers, np.random.Generator], Numbers]


def product_text(fields: Mapping[str, Any], names: Sequence[str]) -> str:
    """The chosen fields that are not empty, as sentences."""
    return ". ".join(fields[name].strip(" .") for name in names if fields.get(name))


class Draw(NamedTuple):
    """One sample of one source in one epoch, and the turn among its rows of the batch.

    All that decides what is read and which query.
    """

    source: int
    sample: int
    epoch: int
    turn: int = 0


class Split:
    """One split of one folder of shards: its products, and the pictures of its queries.

    Raises:
        ShardError: no such split, or shards that are not there or not of the manifest's sizes.
    """

    def __init__(self, folder: Path | str, split: str, text_fields: Sequence[str]) -> None:
        self.folder = Path(folder)
        manifest = read_manifest(self.folder)
        if split not in manifest["splits"]:
            known = ", ".join(manifest["splits"])
            raise ShardError(f"{self.folder}: no split {split!r}; it has {known}")
        entry = manifest["splits"][split]
        self.counts: Mapping[str, Any] = entry
        self.highest = {name: column["max"] for name, column in manifest["grades"].items()}
        self.text_fields = list(text_fields)
        self.products = Shards(self.folder, entry["shards"])
        self.query_pictures = Shards(self.folder, entry.get("query_shards", []))
        self._files = files_of(entry)
        check_sizes(self.folder, self._files)

    @property
    def sizes(self) -> list[int]:
        """Number of products in each shard."""
        return self.products.sizes

    @property
    def checksums(self) -> list[str]:
        """The SHA-256 of each of its files, as the manifest says."""
        return [entry["sha256"] for entry in self._files]

    def __len__(self) -> int:
        return len(self.products)

    def verify(self) -> None:
        """Reads every file of the split once: each has the checksum that the manifest says.

        Raises:
            ShardError: one has another.
        """
        check_sums(self.folder, self._files)

    def read(self, sample: int, picture: int | None) -> tuple[dict[str, Any], Tensor | None]:
        """The JSON of a sample and its picture (None where it has none or `picture` is None).

        `picture` is the side in pixels that the decoder may reduce to. Texts, ids and grades are of
        their types.

        Raises:
            SampleError: the JSON is not that of a product, or the picture's bytes are no picture.
        """
        content = self.products.read(sample, ("json",) if picture is None else ("json", "jpg"))
        try:
            fields = self._decode(content["json"])
            if "jpg" not in content:
                return fields, None
            return fields, decode_pixels(content["jpg"], reduce_to=picture)
        except (*UNFIT, PictureError) as error:
            raise SampleError(f"{self.folder} sample {sample}: {error}") from error

    def _decode(self, data: bytes) -> dict[str, Any]:
        # Not kept, so that a split can be sent to other processes.
        decoder = sample_decoder(tuple(self.text_fields), tuple(self.highest.items()))
        fields = decoder.decode(data)
        for item in fields["queries"]:
            if not item.get("own") and "grades" not in item:
                raise ValidationError(f"query {item['query_id']!r:.200}: expected grades, got none")
        return fields

    def category(self, sample: int) -> str:
        """The last level of a sample's category, such as Dress of `Women > Dress`.

        Empty where it has none, or cannot be read.
        """
        try:
            content = self.products.read(sample, ("json",))
            category = CATEGORY.decode(content["json"]).get("category", "")
        except (*UNFIT, SampleError):
            return ""
        return category.rpartition(">")[2].strip()

    def read_query_picture(self, number: int, size: int) -> Tensor:
        """The number-th picture of a query, which may be reduced to `size` pixels a side.

        Raises:
            SampleError: there is none of that number, or its bytes are no picture.
        """
        content = self.query_pictures.read(number, ("jpg",))
        place = f"{self.folder} query picture {number}"
        if "jpg" not in content:
            raise SampleError(f"{place}: expected a jpg, got none")
        try:
            return decode_pixels(content["jpg"], reduce_to=size)
        except PictureError as error:
            raise SampleError(f"{place}: {error}") from error

    def text_of(self, fields: dict[str, Any]) -> str:
        """The product text of a sample."""
        return product_text(fields, self.text_fields)

    def judgements_of(self, fields: dict[str, Any]) -> list[Judgement]:
        """Judgements with a positive first gain, in (0, 1]: (2^grade - 1) / (2^max - 1).

        The gain is the evaluation's, so a partial match weighs in training what it counts there. A
        query that is the product itself is one too, of gain OWN.
        """
        name, highest = next(iter(self.highest.items()))
        # A column may be all zeros.
        best = 2 ** (highest or 1) - 1
        judgements = []
        for item in fields["queries"]:
            gain = OWN if item.get("own") else (2 ** item["grades"][name] - 1) / best
            if gain != 0:
                judgements.append(Judgement(item["query_id"], item["query"], item["kind"], gain))
        return judgements


def draw_queries(
    judgements: list[Judgement], seed: Sequence[int], number: int = 1
) -> list[Judgement]:
    """Some judgements, none twice: each time first a kind, each alike, then in it by the gain.

    Kinds alike, because machine-made queries outnumber those that people wrote. Never the product
    itself. Fewer than `number` where there are no more.
    """
    kinds: dict[str, list[Judgement]] = {}
    for judgement in judgements:
        if judgement.gain != OWN:
            kinds.setdefault(judgement.kind, []).append(judgement)
    drawn: list[Judgement] = []
    if not kinds:
        return drawn
    random = np.random.default_rng(list(seed))
    while kinds and len(drawn) < number:
        kind = sorted(kinds)[random.integers(len(kinds))]
        # NumPy's own choice by weight takes many times as long for a few.
        reached = list(accumulate(judgement.gain for judgement in kinds[kind]))
        place = bisect_right(reached, random.random() * reached[-1], hi=len(reached) - 1)
        drawn.append(kinds[kind].pop(place))
        if not kinds[kind]:
            del kinds[kind]
    return drawn


def asks(losses: Sequence[str]) -> bool:
    """Whether one of the losses has a view other than a product's text and picture."""
    return any(not {"text", "image"}.issuperset(OBJECTIVE_VIEWS[name]) for name in losses)


class _Read(NamedTuple):
    """A sample as it was read, and the queries drawn for its turns with their pictures."""

    fields: dict[str, Any]
    picture: Tensor | None
    judgements: list[Judgement]
    queries: list[tuple[Judgement, Tensor | None]]


class Products(Dataset[Sample | str]):
    """Samples of several splits, by Draw; `picture` as in `Split.read`, for queries' as well.

    `losses` are those that each split feeds; its queries are drawn where one of them has queries,
    `turns` for each product: rows of one turn each, of which only the first reads the sample.
    """

    def __init__(
        self,
        sources: Sequence[Split],
        seed: int,
        picture: int | None,
        losses: Sequence[tuple[str, ...]] = (),
        turns: Sequence[int] = (),
    ) -> None:
        self.sources = list(sources)
        self.seed = seed
        self.picture = picture
        self.losses = losses or [()] * len(sources)
        # Nobody asks for the queries of what feeds text and picture alone.
        self.asked = [not feeds or asks(feeds) for feeds in self.losses]
        self.turns = turns or [1] * len(sources)
        self._last: tuple[Draw, _Read | str] | None = None

    def _read(self, draw: Draw) -> _Read | str:
        """What the draws of all turns share: read by the first of them, then kept for the next.

        A line that says why where it cannot be read.
        """
        first = draw._replace(turn=0)
        if self._last is None or self._last[0] != first:
            self._last = first, self._read_first(first)
        return self._last[1]

    def _read_first(self, draw: Draw) -> _Read | str:
        source = self.sources[draw.source]
        try:
            fields, picture = source.read(draw.sample, self.picture)
        except SampleError as error:
            return str(error)
        judgements = source.judgements_of(fields) if self.asked[draw.source] else []
        seed = (self.seed, draw.source, draw.sample, draw.epoch)
        drawn = draw_queries(judgements, seed, self.turns[draw.source])
        try:
            queries = [(query, self._query_picture(source, fields, query)) for query in drawn]
        except SampleError as error:
            # The product goes with it: its first row stands for it among the candidates.
            return f"{source.folder} sample {draw.sample}: {error}"
        return _Read(fields, picture, judgements, queries)

    def __getitem__(self, draw: Draw) -> Sample | str:
        """The sample, or where it cannot be read a line that says which and why.

        A product with fewer queries than turns has none in the further ones; one that cannot be
        read is told of once, and empty in the further ones.
        """
        source = self.sources[draw.source]
        read = self._read(draw)
        if isinstance(read, str):
            return NOTHING if draw.turn else read
        fields, picture, judgements, queries = read
        query, asked = queries[draw.turn] if draw.turn < len(queries) else (None, None)
        text = source.text_of(fields)
        feeds = self.losses[draw.source]
        identity = fields["product_id"]
        return Sample(identity, text, picture, judgements, query, draw.epoch, asked, feeds)

    def _query_picture(
        self, source: Split, fields: Mapping[str, Any], query: Judgement
    ) -> Tensor | None:
        if self.picture is None:
            return None
        entries = (item for item in fields["queries"] if item["query_id"] == query.query_id)
        number = next(entries).get("picture")
        return None if number is None else source.read_query_picture(number, self.picture)


def epoch_order(
    sizes: Sequence[int], seed: Sequence[int], window: int = WINDOW, order: Order | None = None
) -> Iterator[Numbers]:
    """Sample numbers of one epoch, a window of shards at a time; each sample once.

    `order` puts the shuffled numbers of a window into another order.
    """
    random = np.random.default_rng(list(seed))
    starts = np.cumsum([0, *sizes])
    shards = random.permutation(len(sizes))
    for first in range(0, len(shards), window):
        found = [np.arange(starts[s], starts[s + 1]) for s in shards[first : first + window]]
        numbers = random.permutation(np.concatenate(found))
        yield order(numbers, random) if order else numbers


def in_runs(category: Callable[[int], str], length: int) -> Order:
    """An order in which up to `length` samples of one category stand together, else at random.

    In batches of such runs a product meets others of its kind among the negatives, which is what
    topic-aware sampling (Hofstaetter et al. 2021, arXiv 2104.06967) is for; there topics are
    clusters of queries, here categories are given, and a batch holds many.
    """
    known: dict[int, int] = {}

    def key(number: int) -> int:
        if number not in known:
            # Without a category, it is like no other.
            known[number] = key_of(category(number) or f"sample {number}")
        return known[number]

    def order(numbers: Numbers, random: np.random.Generator) -> Numbers:
        _, label = np.unique([key(number) for number in numbers.tolist()], return_inverse=True)
        by_label = np.argsort(label, kind="stable")
        label = label[by_label]
        place = np.arange(len(label)) - np.searchsorted(label, label)
        _, run = np.unique(label * len(label) + place // length, return_inverse=True)
        turn = random.permutation(len(numbers))[run]
        return numbers[by_label[np.argsort(turn, kind="stable")]]

    return order


class BatchPlan(Sampler[list[Draw]]):
    """Which samples make up each batch of a run, for one of `world` processes.

    A batch comes from one source, drawn by weight: negatives of one shop are hard ones, and the
    pictures of a shop are all there or not. Every process takes an equal slice of every batch, so
    all take the same number of steps. A product stands in as many rows, one after the other, as
    `turns` says of its source; `orders` may put those of a source that are alike side by side.
    Starts at batch `start`, for a run that goes on.
    """

    def __init__(
        self,
        sizes: Sequence[Sequence[int]],
        weights: Sequence[float],
        batch_size: int,
        batches: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
        turns: Sequence[int] = (),
        orders: Sequence[Order] = (),
    ) -> None:
        self.sizes = sizes
        self.shares = np.array(weights, dtype=float) / sum(weights)
        self.batch_size = batch_size
        self.batches = batches
        self.seed = seed
        self.rank = rank
        self.world = world
        self.start = start
        self.turns = turns or [1] * len(sizes)
        self.orders: Sequence[Order | None] = orders or [None] * len(sizes)

    def __len__(self) -> int:
        return self.batches

    def _endless(self, source: int) -> Iterator[Draw]:
        epoch = 0
        while True:
            seed = (self.seed, source, epoch)
            for numbers in epoch_order(self.sizes[source], seed, order=self.orders[source]):
                for number in numbers:
                    yield Draw(source, int(number), epoch)
            epoch += 1

    def __iter__(self) -> Iterator[list[Draw]]:
        random = np.random.default_rng([self.seed, len(self.sizes)])
        streams = [self._endless(source) for source in range(len(self.sizes))]
        for batch in range(self.batches):
            stream = streams[random.choice(len(streams), p=self.shares)]
            draws = [next(stream) for _ in range(self.batch_size * self.world)]
            if batch >= self.start:
                yield [
                    draw._replace(turn=turn)
                    for draw in draws[self.rank :: self.world]
                    for turn in range(self.turns[draw.source])
                ]
