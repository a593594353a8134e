"""Opens one split of a folder of shards and reads its samples by number.

A sample is a product: its JSON and, where there is one, its picture. A JSON parser and an
allow-listed picture decoder are the only parsers; nothing is unpickled. Pictures of queries lie in
shards of their own, once however many products answer them. A sample that is not what it should be
is a SampleError, which training counts; a shard that is not is an error that stops.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import ValidationError
from torch import Tensor

from beyond_text.files import MALFORMED
from beyond_text.shards.archive import PICTURES, SampleError, Shards
from beyond_text.shards.batch import SELF_MATCH, Judgment
from beyond_text.shards.manifest import ShardError, check_sizes, check_sums, files_of, read_manifest
from beyond_text.shards.schema import CATEGORY, sample_decoder
from beyond_text.tables.pictures import PictureError, decode_pixels


def product_text(fields: Mapping[str, Any], names: Sequence[str]) -> str:
    """Joins the chosen fields that are not empty, as sentences."""
    return ". ".join(fields[name].strip(" .") for name in names if fields.get(name))


class Split:
    """Opens one split of a folder of shards: its products, and the pictures of its queries.

    With `further`, `read` returns the products' further columns too, which training does not need.
    A judgment's gain is the mean over those of `grades` that the folder has, by their weights;
    without any, the first grade's.

    Raises:
        ShardError: no such split, none of the grades, or shards that are not there or not of the
            manifest's sizes.
    """

    def __init__(
        self,
        folder: Path | str,
        split: str,
        text_fields: Sequence[str],
        grades: Mapping[str, float] | None = None,
        further: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self.further = further
        manifest = read_manifest(self.folder)
        if split not in manifest["splits"]:
            known = ", ".join(manifest["splits"])
            raise ShardError(f"{self.folder}: no split {split!r}; it has {known}")
        entry = manifest["splits"][split]
        self.counts: Mapping[str, Any] = entry
        self.highest = {name: column["max"] for name, column in manifest["grades"].items()}
        wanted = grades or dict.fromkeys(list(self.highest)[:1], 1.0)
        self.weights = {name: wanted[name] for name in wanted if name in self.highest}
        if entry["judged_pairs"] and not sum(self.weights.values()):
            asked, known = ", ".join(wanted), ", ".join(self.highest) or "none"
            raise ShardError(f"{self.folder}: expected one of the grades {asked}, it has {known}")
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
        """The SHA-256 of each file of the split, as the manifest says."""
        return [entry["sha256"] for entry in self._files]

    def __len__(self) -> int:
        return len(self.products)

    def verify(self) -> None:
        """Reads every file of the split and checks it against the manifest's checksum.

        Raises:
            ShardError: one has another.
        """
        check_sums(self.folder, self._files)

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
        """Returns the numbers of a sample's pictures, without reading them.

        Raises:
            SampleError: there is no such sample.
        """
        members = self.products.members(sample)
        return [number for number, name in enumerate(PICTURES) if name in members]

    def read_pictures(self, sample: int, picture: int) -> tuple[dict[str, Any], list[Tensor]]:
        """Reads the JSON of a sample and all its pictures, the main one first.

        Raises:
            SampleError: as for `read`.
        """
        return self._read(sample, PICTURES, picture)

    def _read(
        self, sample: int, names: Sequence[str], picture: int | None
    ) -> tuple[dict[str, Any], list[Tensor]]:
        """Reads the JSON of a sample, and those of the named pictures that it has."""
        content = self.products.read(sample, ("json", *names))
        try:
            fields = self._decode(content["json"])
            jpegs = [content[name] for name in names if name in content]
            return fields, [decode_pixels(jpeg, reduce_to=picture) for jpeg in jpegs]
        except (*MALFORMED, PictureError) as error:
            raise SampleError(f"{self.folder} sample {sample}: {error}") from error

    def _decode(self, data: bytes) -> dict[str, Any]:
        """Decodes the JSON of a sample and checks its types."""
        # Looked up, since a split that holds a decoder cannot be sent to other processes.
        decoder = sample_decoder(tuple(self.text_fields), tuple(self.highest.items()), self.further)
        fields = decoder.decode(data)
        for item in fields["queries"]:
            if not item.get("own") and "grades" not in item:
                raise ValidationError(f"query {item['query_id']!r:.200}: expected grades, got none")
        return fields

    def category(self, sample: int) -> str:
        """Reads the last level of a sample's category, such as Dress of `Women > Dress`.

        Empty where it has none, or cannot be read.
        """
        try:
            content = self.products.read(sample, ("json",))
            category = CATEGORY.decode(content["json"]).get("category", "")
        except (*MALFORMED, SampleError):
            return ""
        return category.rpartition(">")[2].strip()

    def read_query_picture(self, number: int, size: int) -> Tensor:
        """Reads the number-th picture of a query, which may be reduced to `size` pixels a side.

        Raises:
            SampleError: there is none of that number, or its bytes are no picture.
        """
        content = self.query_pictures.read(number, ("jpg",))
        name = f"{self.folder} query picture {number}"
        if "jpg" not in content:
            raise SampleError(f"{name}: expected a jpg, got none")
        try:
            return decode_pixels(content["jpg"], reduce_to=size)
        except PictureError as error:
            raise SampleError(f"{name}: {error}") from error

    def text_of(self, fields: dict[str, Any]) -> str:
        """Returns the product text of a sample."""
        return product_text(fields, self.text_fields)

    def judgments_of(self, fields: dict[str, Any]) -> list[Judgment]:
        """Returns the judgments; a grade's gain is (2^grade - 1) / (2^max - 1), at most 1.

        The gain is the evaluation's, so a partial match weighs in training what it counts there. A
        query that is the product itself has gain SELF_MATCH.
        """
        return [
            Judgment(
                item["query_id"],
                item["query"],
                item["kind"],
                SELF_MATCH if item.get("own") else self._gain(item["grades"]),
                item.get("picture"),
            )
            for item in fields["queries"]
        ]

    def _gain(self, grades: Mapping[str, float]) -> float:
        """Returns the gain of a judgment: the mean of its grades' gains, by their weights."""
        total = 0.0
        for name, weight in self.weights.items():
            # A column may be all zeros.
            total += weight * (2 ** grades[name] - 1) / (2 ** (self.highest[name] or 1) - 1)
        return total / sum(self.weights.values())
