"""Decides what each sample of a source is to a stage: an anchor of its losses, or only a negative.

A sample is an anchor where it has the views of one of the losses. Its judged negatives are the
products that a query of its own is judged 0 for: an explicit no, which is worth more than a product
that nobody judged.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64
from tqdm import tqdm

from beyond_text.config.views import PAIRS
from beyond_text.shards.archive import SampleError
from beyond_text.shards.batch import query_text_key
from beyond_text.shards.split import Split


class Roles(NamedTuple):
    """Which samples are anchors, and the judged negatives of sample i.

    These are `negatives[starts[i] : starts[i + 1]]`, numbers of samples.
    """

    anchor: Bool[np.ndarray, " samples"]
    starts: Int64[np.ndarray, " bounds"]
    negatives: Int64[np.ndarray, " pairs"]

    @property
    def all_alike(self) -> bool:
        """Whether every sample is an anchor, and none has a judged negative."""
        return bool(self.anchor.all()) and not len(self.negatives)

    def anchors_in(self, number: int, share: float, reserve: bool = False) -> int:
        """Returns how many of a batch's `number` products are anchors.

        Others have their share of the source, but at most `share`, and what anchors cannot fill.
        With `reserve`, as many places as judged negatives may take are kept free as well.
        """
        anchors, samples = int(self.anchor.sum()), len(self.anchor)
        others = int(share * number)
        if not (reserve and len(self.negatives)):
            others = min(others, (samples - anchors) * number // samples)
        return min(anchors, number - others)

    def of(self, sample: int) -> Int64[np.ndarray, " negatives"]:
        """Returns the judged negatives of a sample."""
        return self.negatives[self.starts[sample] : self.starts[sample + 1]]


def roles_of(split: Split, losses: Collection[str]) -> Roles:
    """Reads which samples of a split are anchors of one of the losses.

    A sample that cannot be read counts as one, so that training meets it and counts it.

    Raises:
        ShardError: a shard is damaged.
    """
    needed = [_views(name) for name in losses]
    anchor = np.zeros(len(split), dtype=bool)
    wanted: list[tuple[int, int]] = []
    refused: list[tuple[int, int]] = []
    numbers = tqdm(
        range(len(split)), desc=f"reading judgments of {split.folder.name}", disable=None
    )
    for sample in numbers:
        try:
            fields, _ = split.read(sample, None)
        except SampleError:
            anchor[sample] = True
            continue
        judgments = split.judgments_of(fields)
        matches = [judgment for judgment in judgments if judgment.gain > 0]
        has = {
            "query": bool(matches),
            "text": bool(split.text_of(fields)),
            "image": bool(split.picture_numbers(sample)),
        }
        anchor[sample] = any(all(has[view] for view in views) for views in needed)
        if has["query"]:
            wanted += [(query_text_key(judgment.query), sample) for judgment in matches]
        refused += [
            (query_text_key(judgment.query), sample)
            for judgment in judgments
            if judgment.gain == 0 and judgment.query
        ]
    return Roles(anchor, *_joined(wanted, refused, len(split)))


def _views(loss: str) -> set[str]:
    """Returns the views that make a sample an anchor of a loss; UniECS's need a query alone."""
    return {"query", "text", "image"} & set(PAIRS.get(loss, ("query", "query")))


def _joined(
    wanted: Iterable[tuple[int, int]], refused: Iterable[tuple[int, int]], samples: int
) -> tuple[Int64[np.ndarray, " bounds"], Int64[np.ndarray, " pairs"]]:
    """Joins (query, sample) pairs of matches and of judged zeros to each sample's negatives."""
    zeros: dict[int, list[int]] = {}
    for query, sample in refused:
        zeros.setdefault(query, []).append(sample)
    pairs = sorted({(sample, no) for query, sample in wanted for no in zeros.get(query, ())})
    owners = np.array([owner for owner, _ in pairs], dtype=np.int64)
    negatives = np.array([negative for _, negative in pairs], dtype=np.int64)
    return np.searchsorted(owners, np.arange(samples + 1)), negatives
