"""Opens one split of a folder of shards and reads its samples by number.

A sample is a product: its JSON and, where there is one, its picture; its judgments, and what the
index tells without opening a shard, are mapped into memory. A JSON parser and an allow-listed
picture decoder are the only parsers of samples; nothing is unpickled. Pictures of queries lie in
shards of their own, once however many products answer them. A sample that is not what it should be
is a SampleError, which training counts; a file that is not is an error that stops.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt32
from torch import Tensor

from beyond_text.files import MALFORMED
from beyond_text.shards.archive import PICTURES, SampleError, Shards
from beyond_text.shards.batch import SELF_MATCH, Judgment
from beyond_text.shards.judged import Asked, Judged
from beyond_text.shards.labels import Kept, keep_queries
from beyond_text.shards.manifest import ShardError, check_sizes, check_sums, files_of, read_manifest
from beyond_text.shards.schema import sample_decoder
from beyond_text.shards.store import Store
from beyond_text.tables.pictures import PictureError, decode_pixels
from beyond_text.tables.text import product_text

# Shards that are fetched while all are read in order.
IN_ORDER = 8


class Split:
    """Opens one split of shards, in a folder or at a URL: products, and its queries' pictures.

    With `further`, `read` returns the products' further columns too, which training does not need.
    A judgment's gain is the mean over those of `grades` that the folder has, by their weights;
    without any, the first grade's. With `labels`, the judgments are those of as many of its queries
    (`keep_queries`), and with 0 it is as if it had none.

    Raises:
        ShardError: no such split, none of the grades, or shards that are not there or not of the
            manifest's sizes.
    """

    def __init__(
        self,
        place: Path | str | Store,
        split: str,
        text_fields: Sequence[str],
        grades: Mapping[str, float] | None = None,
        further: bool = False,
        labels: int | None = None,
    ) -> None:
        self.store = Store.of(place)
        self.labels = labels
        self.further = further
        manifest = read_manifest(self.store)
        if split not in manifest["splits"]:
            known = ", ".join(manifest["splits"])
            raise ShardError(f"{self.store}: no split {split!r}; it has {known}")
        entry = manifest["splits"][split]
        self.counts: Mapping[str, Any] = entry
        self.highest = {name: column["max"] for name, column in manifest["grades"].items()}
        wanted = grades or dict.fromkeys(list(self.highest)[:1], 1.0)
        self.weights = {name: wanted[name] for name in wanted if name in self.highest}
        if entry["judged_pairs"] and not sum(self.weights.values()):
            asked, known = ", ".join(wanted), ", ".join(self.highest) or "none"
            raise ShardError(f"{self.store}: expected one of the grades {asked}, it has {known}")
        self.text_fields = list(text_fields)
        self.products = Shards(self.store, entry["shards"])
        self.query_pictures = Shards(self.store, entry.get("query_shards", []))
        self._files = files_of(entry)
        self._tables: tuple[Asked, Judged] | None = None
        self._kept: Kept | None = None
        check_sizes(self.store, self._files)

    @property
    def sizes(self) -> list[int]:
        """Number of products in each shard."""
        return self.products.sizes

    @property
    def checksums(self) -> list[str]:
        """The SHA-256 of each file of the split, as the manifest says."""
        return [entry["sha256"] for entry in self._files]

    def __len__(self) -> int:
        return len(self.products)

    def in_order(self) -> Iterator[int]:
        """Yields the numbers of all samples; the next shards are fetched meanwhile."""
        sample = 0
        for number, size in enumerate(self.sizes):
            self.ahead(range(number, min(number + IN_ORDER, len(self.sizes))))
            yield from range(sample, sample + size)
            sample += size
        self.ahead([])

    def check_window(self, shards: int) -> None:
        """Compares a window of shards, and the next, with the room of a cache.

        Raises:
            ShardError: there is not even room for the one.
        """
        self.store.check_window(self.products.entries, shards)

    def verify(self) -> None:
        """Reads every file of the split and checks it against the manifest's checksum.

        Raises:
            ShardError: one has another.
        """
        check_sums(self.store, self._files)

    def __getstate__(self) -> dict[str, Any]:
        """Returns what another process needs, which maps the files itself."""
        return self.__dict__ | {"_tables": None}

    @property
    def asked(self) -> Asked:
        """The queries of the split.

        Raises:
            ShardError: their file is damaged.
        """
        return self._mapped[0]

    @property
    def judged(self) -> Judged:
        """The judgments of the split.

        Raises:
            ShardError: their file, or that of the queries, is damaged.
        """
        return self._mapped[1]

    @property
    def _mapped(self) -> tuple[Asked, Judged]:
        if self._tables is None:
            asked = Asked(self.store.local(self.counts["asked"]))
            path = self.store.local(self.counts["judged"])
            judged = Judged(path, self.highest, len(self), len(asked))
            if self.labels is not None:
                judged.kept = self._keep(asked, judged).rows
            self._tables = asked, judged
        return self._tables

    @property
    def has_judgments(self) -> bool:
        """Whether a query that training sees is judged above 0 for a product."""
        return self.labels != 0 and self.counts["judged_pairs"] > 0

    def kept(self) -> Kept:
        """Returns which judged queries training sees.

        Raises:
            ShardError: the file of queries or of judgments is damaged.
        """
        return self._keep(*self._mapped)

    def _keep(self, asked: Asked, judged: Judged) -> Kept:
        self._kept = self._kept or keep_queries(
            asked, judged, self.query_pictures, self.labels, self.gains
        )
        return self._kept

    def read(
        self, sample: int, picture: int | None, which: int = 0
    ) -> tuple[dict[str, Any], Tensor | None]:
        """Reads the JSON of a sample and its picture (None where it has none or `picture` is None).

        `picture` is the side in pixels that the decoder may reduce to, and `which` the number of
        one of several pictures. The types of texts, ids and grades are checked.

        Raises:
            SampleError: the JSON is not that of a product, or the picture's bytes are no picture.
        """
        names = () if picture is None else (PICTURES[which],)
        fields, pictures = self._read(sample, names, picture)
        return fields, pictures[0] if pictures else None

    def picture_numbers(self, sample: int) -> list[int]:
        """Returns the numbers of a sample's pictures, from the index alone.

        Raises:
            SampleError: there is no such sample.
        """
        return list(range(min(int(self.products.record(sample)["pictures"]), len(PICTURES))))

    def read_pictures(self, sample: int, picture: int) -> tuple[dict[str, Any], list[Tensor]]:
        """Reads the JSON of a sample and all its pictures, the main one first.

        Raises:
            SampleError: as for `read`.
        """
        return self._read(sample, PICTURES, picture)

    def read_bytes(
        self, sample: int, names: Sequence[str]
    ) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Reads the JSON of a sample, and the bytes of those of the named pictures that it has.

        Raises:
            SampleError: the JSON is not that of a product.
        """
        content = self.products.read(sample, ("json", *names))
        try:
            # Looked up, since a split that holds a decoder cannot be sent to other processes.
            decoder = sample_decoder(tuple(self.text_fields), self.further)
            return decoder.decode(content.pop("json")), content
        except MALFORMED as error:
            raise SampleError(f"{self.store} sample {sample}: {error}") from error

    def _read(
        self, sample: int, names: Sequence[str], picture: int | None
    ) -> tuple[dict[str, Any], list[Tensor]]:
        """Reads the JSON of a sample, and those of the named pictures that it has."""
        fields, jpegs = self.read_bytes(sample, names)
        try:
            return fields, [decode_pixels(jpeg, reduce_to=picture) for jpeg in jpegs.values()]
        except PictureError as error:
            raise SampleError(f"{self.store} sample {sample}: {error}") from error

    def categories(self) -> UInt32[np.ndarray, " samples"]:
        """Returns the keys of the categories of all samples; 0 stands for none.

        Raises:
            ShardError: the index of a shard is damaged.
        """
        shards = range(len(self.sizes))
        found = (self.products.records(shard)["category"] for shard in shards)
        return np.concatenate([np.zeros(0, np.uint32), *found])

    def ahead(self, shards: Sequence[int]) -> None:
        """Is told the shards of products that are read next."""
        self.store.ahead([self.products.entries[shard] for shard in shards])

    def read_query_picture(self, number: int, size: int) -> Tensor:
        """Reads the number-th picture of a query, which may be reduced to `size` pixels a side.

        Raises:
            SampleError: there is none of that number, or its bytes are no picture.
        """
        content = self.query_pictures.read(number, ("jpg",))
        name = f"{self.store} query picture {number}"
        if "jpg" not in content:
            raise SampleError(f"{name}: expected a jpg, got none")
        try:
            return decode_pixels(content["jpg"], reduce_to=size)
        except PictureError as error:
            raise SampleError(f"{name}: {error}") from error

    def text_of(self, fields: dict[str, Any]) -> str:
        """Returns the product text of a sample."""
        return product_text(fields, self.text_fields)

    def judgments(self, sample: int) -> list[Judgment]:
        """Returns the judgments of a sample, in the order of their query_id.

        A query that is the product itself has gain SELF_MATCH, another as `gains` says.

        Raises:
            ShardError: the file of queries or of judgments is damaged.
        """
        pairs = self.judged.of(sample)
        gains = np.where(pairs.own, SELF_MATCH, self.gains(pairs.grades))
        return [
            Judgment(
                query.query_id,
                query.query,
                query.kind,
                gain,
                None if query.picture < 0 else query.picture,
            )
            for query, gain in zip(self.asked.of(pairs.query), gains.tolist(), strict=True)
        ]

    def gains(
        self, grades: Float[np.ndarray, "grades judgments"]
    ) -> Float[np.ndarray, " judgments"]:
        """Returns the gain of judgments: the mean of their grades' gains, by the grades' weights.

        A grade's gain is (2^grade - 1) / (2^max - 1), at most 1. It is the evaluation's, so a
        partial match weighs in training what it counts there.
        """
        total = np.zeros(grades.shape[1])
        for (name, highest), column in zip(self.highest.items(), grades, strict=True):
            if weight := self.weights.get(name, 0.0):
                # A column may be all zeros.
                total += weight * (2**column - 1) / (2 ** (highest or 1) - 1)
        return np.minimum(total / (sum(self.weights.values()) or 1), 1)
