"""WebDataset shards in, samples out, in an order that (seed, epoch) alone decides.

A sample is a product: `KEY.json` and, where there is a picture, `KEY.jpg`; only these members are
read, JSON and an allow-listed picture decoder are the only parsers, nothing is unpickled. Pictures
of queries lie in shards of their own, once however many products answer them. Shards are plain
local tar files read by offset, so a worker reads just its own samples and any number of workers
gives the same batches. Shards are shuffled, then samples within a window of shards, so that reading
stays local however large the set is.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL.Image import Image
from torch.utils.data import Dataset, Sampler

from beyond_text.batch import OWN, Judgement, Sample
from beyond_text.pictures import PictureError, decode_picture

WINDOW = 16


class ShardError(ValueError):
    """A folder of shards that is missing, incomplete or not what its manifest says."""


class Member(NamedTuple):
    """Where one file of a sample lies in its tar."""

    offset: int
    size: int


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished folder of shards.

    Raises:
        ShardError: there is none, which an interrupted build also looks like, or it is damaged.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise ShardError(
            f"{folder}: no manifest.json: not a finished folder of shards; make one with "
            "`python -m data_prep.shards TABLES OUT`"
        )
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ShardError(f"{path}: not a manifest: {error}") from error


def index_shard(path: Path) -> list[dict[str, Member]]:
    """Members of each sample in order, by extension.

    Raises:
        ShardError: not a whole tar, a sample without its json, or interleaved samples.
    """
    samples: list[dict[str, Member]] = []
    seen: dict[str, dict[str, Member]] = {}
    last = None
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                if key != last:
                    if key in seen:
                        raise ShardError(f"{path}: members of sample {key} do not stand together")
                    seen[key] = {}
                    samples.append(seen[key])
                    last = key
                if member.isfile() and extension in ("json", "jpg"):
                    seen[key][extension] = Member(member.offset_data, member.size)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ShardError(f"{path}: not a readable tar: {error}") from error
    for key, members in seen.items():
        if "json" not in members:
            raise ShardError(f"{path}: sample {key} has no json")
    return samples


def product_text(fields: Mapping[str, Any], names: Sequence[str]) -> str:
    """The chosen fields that are not empty, as sentences."""
    return ". ".join(fields[name].strip(" .") for name in names if fields.get(name))


class Draw(NamedTuple):
    """One sample of one source in one epoch: all that decides what is read and which query."""

    source: int
    sample: int
    epoch: int


class Shards:
    """Samples of the shards that a manifest lists, by number."""

    def __init__(self, folder: Path, entries: Sequence[Mapping[str, Any]]) -> None:
        self.folder = folder
        self.entries = entries
        self.sizes = [entry["samples"] for entry in entries]
        self._starts = np.cumsum([0, *self.sizes])
        self._index: dict[int, list[dict[str, Member]]] = {}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def _members(self, shard: int) -> list[dict[str, Member]]:
        if shard not in self._index:
            expected = self.entries[shard]
            path = self.folder / expected["file"]
            found = index_shard(path)
            size = path.stat().st_size
            # A tar cut between two members reads like a whole one: the size betrays it.
            if (len(found), size) != (expected["samples"], expected["bytes"]):
                raise ShardError(
                    f"{path}: {len(found)} samples in {size} bytes, the manifest says "
                    f"{expected['samples']} in {expected['bytes']}"
                )
            self._index[shard] = found
        return self._index[shard]

    def read(self, sample: int, extensions: Sequence[str]) -> dict[str, bytes]:
        """The bytes of those of a sample's members that are there, by extension.

        Raises:
            ShardError: the shards hold no such sample, or its shard is damaged.
        """
        if not 0 <= sample < len(self):
            raise ShardError(f"{self.folder}: expected a sample below {len(self)}, got {sample}")
        shard = int(np.searchsorted(self._starts, sample, side="right")) - 1
        members = self._members(shard)[sample - int(self._starts[shard])]
        content = {}
        with (self.folder / self.entries[shard]["file"]).open("rb") as file:
            for extension in extensions:
                if extension in members:
                    file.seek(members[extension].offset)
                    content[extension] = file.read(members[extension].size)
        return content


class Split:
    """One split of one folder of shards: its products, and the pictures of its queries."""

    def __init__(self, folder: Path | str, split: str, text_fields: Sequence[str]) -> None:
        self.folder = Path(folder)
        manifest = read_manifest(self.folder)
        if split not in manifest["splits"]:
            known = ", ".join(manifest["splits"])
            raise ShardError(f"{self.folder}: no split {split!r}; it has {known}")
        self.counts: dict[str, Any] = manifest["splits"][split]
        self.highest = {name: column["max"] for name, column in manifest["grades"].items()}
        self.text_fields = list(text_fields)
        self.products = Shards(self.folder, self.counts["shards"])
        # Folders without pictures of queries, older ones among them, do not list any.
        self.query_pictures = Shards(self.folder, self.counts.get("query_shards", []))

    @property
    def sizes(self) -> list[int]:
        """Number of products in each shard."""
        return self.products.sizes

    def __len__(self) -> int:
        return len(self.products)

    def read(self, sample: int, picture: int | None) -> tuple[dict[str, Any], Image | None]:
        """The JSON of a sample and its picture (None where it has none or `picture` is None).

        `picture` is the side in pixels that the decoder may reduce to.

        Raises:
            PictureError: the picture's bytes are no picture.
        """
        content = self.products.read(sample, ("json",) if picture is None else ("json", "jpg"))
        fields = json.loads(content["json"])
        if "jpg" not in content:
            return fields, None
        return fields, decode_picture(content["jpg"], reduce_to=picture)

    def read_query_picture(self, number: int, size: int) -> Image:
        """The number-th picture of a query, which may be reduced to `size` pixels a side.

        Raises:
            PictureError: its bytes are no picture.
            ShardError: there is none of that number.
        """
        content = self.query_pictures.read(number, ("jpg",))
        if "jpg" not in content:
            raise ShardError(f"{self.folder}: query picture {number} has no jpg")
        try:
            return decode_picture(content["jpg"], reduce_to=size)
        except PictureError as error:
            detail = f"query picture {number}: {error.detail}"
            raise PictureError(error.reason, detail) from error

    def text_of(self, fields: dict[str, Any]) -> str:
        """The product text of a sample."""
        return product_text(fields, self.text_fields)

    def judgements_of(self, fields: dict[str, Any]) -> list[Judgement]:
        """Judgements with a positive first grade, as gain in (0, 1]: (2^g - 1) / (2^max - 1).

        The gain is the evaluation's, so a partial match weighs in training what it counts there. A
        query that is the product itself is one too, of gain OWN.
        """
        return [
            Judgement(item["query_id"], item["query"], item["kind"], self._gains(item))
            for item in fields["queries"]
            if item.get("own") or next(iter(item["grades"].values())) > 0
        ]

    def _gains(self, item: Mapping[str, Any]) -> dict[str, float]:
        if item.get("own"):
            return dict.fromkeys(self.highest, OWN)
        return {
            # A further column may be all zeros.
            name: (2**grade - 1) / (2 ** (self.highest[name] or 1) - 1)
            for name, grade in item["grades"].items()
        }


def _gain(judgement: Judgement) -> float:
    return next(iter(judgement.gains.values()))


def draw_query(judgements: list[Judgement], seed: Sequence[int]) -> Judgement | None:
    """One judgement: first a kind, each alike, then within it in proportion to the gain.

    Kinds alike, because machine-made queries outnumber those that people wrote. Never the product
    itself.
    """
    others = [judgement for judgement in judgements if _gain(judgement) != OWN]
    if not others:
        return None
    random = np.random.default_rng(list(seed))
    kinds = sorted({judgement.kind for judgement in others})
    kind = kinds[random.integers(len(kinds))]
    chosen = [judgement for judgement in others if judgement.kind == kind]
    gains = np.array([_gain(judgement) for judgement in chosen])
    return chosen[random.choice(len(chosen), p=gains / gains.sum())]


class Products(Dataset[Sample | str]):
    """Samples of several splits, by Draw; `picture` as in `Split.read`, for queries' as well.

    `losses` are those that each split feeds.
    """

    def __init__(
        self,
        sources: Sequence[Split],
        seed: int,
        picture: int | None,
        losses: Sequence[tuple[str, ...]] = (),
    ) -> None:
        self.sources = list(sources)
        self.seed = seed
        self.picture = picture
        self.losses = losses or [()] * len(sources)

    def __getitem__(self, draw: Draw) -> Sample | str:
        """The sample, or where it cannot be read a line that says which and why."""
        source = self.sources[draw.source]
        try:
            fields, picture = source.read(draw.sample, self.picture)
            judgements = source.judgements_of(fields)
            query = draw_query(judgements, (self.seed, *draw))
            asked = self._query_picture(source, fields, query)
        except (PictureError, UnicodeDecodeError, json.JSONDecodeError) as error:
            return f"{source.folder} sample {draw.sample}: {error}"
        text = source.text_of(fields)
        feeds = self.losses[draw.source]
        identity = fields["product_id"]
        return Sample(identity, text, picture, judgements, query, draw.epoch, asked, feeds)

    def _query_picture(
        self, source: Split, fields: Mapping[str, Any], query: Judgement | None
    ) -> Image | None:
        if query is None or self.picture is None:
            return None
        entries = (item for item in fields["queries"] if item["query_id"] == query.query_id)
        number = next(entries).get("picture")
        return None if number is None else source.read_query_picture(number, self.picture)


def epoch_order(
    sizes: Sequence[int], seed: Sequence[int], window: int = WINDOW
) -> Iterator[np.ndarray]:
    """Sample numbers of one epoch, a window of shards at a time; each sample once."""
    random = np.random.default_rng(list(seed))
    starts = np.cumsum([0, *sizes])
    shards = random.permutation(len(sizes))
    for first in range(0, len(shards), window):
        numbers = [np.arange(starts[s], starts[s + 1]) for s in shards[first : first + window]]
        yield random.permutation(np.concatenate(numbers))


class BatchPlan(Sampler[list[Draw]]):
    """Which samples make up each batch of a run, for one of `world` processes.

    A batch comes from one source, drawn by weight: negatives of one shop are hard ones, and the
    pictures of a shop are all there or not. Every process takes an equal slice of every batch, so
    all take the same number of steps. Starts at batch `start`, for a run that goes on.
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
    ) -> None:
        self.sizes = sizes
        self.shares = np.array(weights, dtype=float) / sum(weights)
        self.batch_size = batch_size
        self.batches = batches
        self.seed = seed
        self.rank = rank
        self.world = world
        self.start = start

    def __len__(self) -> int:
        return self.batches

    def _endless(self, source: int) -> Iterator[Draw]:
        epoch = 0
        while True:
            for numbers in epoch_order(self.sizes[source], (self.seed, source, epoch)):
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
                yield draws[self.rank :: self.world]
