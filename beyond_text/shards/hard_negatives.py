"""Draws the query of an anchor, and products that were mined for it, by arrays alone.

A mined product is hard for one query. So the query that the anchor has in the batch is drawn here,
ahead of the loader, as that would: a kind, all equally likely, then a query of it by its gain.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc
from jaxtyping import Float32, Float64, Int32, Int64, UInt32

from beyond_text.config.settings import Config, ConfigError
from beyond_text.config.views import uses_queries
from beyond_text.shards.mined import AGAIN, Mined, folder_of_mined, has_mined, read_mined
from beyond_text.shards.sources import SourceSupply
from beyond_text.shards.split import Split
from beyond_text.terminal import say

Numbers = Int64[np.ndarray, " numbers"]
# Random numbers from 0 to 1.
Shares = Float64[np.ndarray, " numbers"]


class HardNegatives(NamedTuple):
    """The queries of each sample, and the products that were mined for each query.

    Sample i has the queries `query[starts[i] : starts[i + 1]]`; `until` is the share of the draws
    that take this one or one before. So 8 bytes are held for each judgment above 0.

    Attributes:
        mined: numbers of samples, a row a query; `found` says how many of a row there are.
        each: the most that are drawn for a query.
    """

    starts: Int64[np.ndarray, " bounds"]
    query: UInt32[np.ndarray, " pairs"]
    until: Float32[np.ndarray, " pairs"]
    mined: Mined
    found: Int32[np.ndarray, " queries"]
    each: int

    @property
    def asking(self) -> int:
        """How many products all samples together may ask for."""
        asks = np.append(0, np.cumsum(self.found[self.query] > 0))[self.starts]
        return self.each * int(np.count_nonzero(np.diff(asks)))

    def queries(self, samples: Numbers, shares: Shares) -> Numbers:
        """Returns the query of each sample that a share of the draws falls on, -1 without any."""
        # `take` is several times as fast as an index.
        first, end = self.starts.take(samples), self.starts.take(samples + 1)
        asking = np.flatnonzero(first < end)
        query = np.full(len(samples), -1)
        query[asking] = self.query.take(self._drawn(first[asking], end[asking] - 1, shares[asking]))
        return query

    def products(self, query: Numbers, places: Shares) -> Int32[np.ndarray, "numbers each"]:
        """Returns some of the products that were mined for queries, -1 where there are no more.

        They are the next ones in the row of a query from a share of it on, and then from its start.
        """
        found = np.where(query < 0, 0, self.found.take(query))[:, None]
        order = np.arange(self.each)
        place = (places[:, None] * found).astype(np.int64) + order
        # What stands past those of a row is left out below.
        place = np.where(place < found, place, place - found) + query[:, None] * self.mined.shape[1]
        products = np.asarray(self.mined).reshape(-1).take(place, mode="clip")
        return np.where(order < found, products, np.int32(-1))

    def _drawn(self, low: Numbers, high: Numbers, shares: Shares) -> Numbers:
        """Returns the pair, from `low` to `high`, that a share of the draws falls on, by bisection.

        Of all samples at once; a search among all pairs would wait for memory at every step.
        """
        for _ in range(int((high - low).max(initial=0)).bit_length()):
            middle = (low + high) >> 1
            is_beyond = self.until.take(middle) <= shares
            # Where low has met high, both stay.
            low = np.minimum(np.where(is_beyond, middle + 1, low), high)
            high = np.where(is_beyond, high, middle)
        return low


def hard_negatives_of(
    config: Config, sources: Mapping[str, SourceSupply]
) -> dict[str, HardNegatives]:
    """Reads the mined negatives of a run's sources; prints how many queries of each have some.

    Raises:
        ConfigError: no source has any.
        ShardError: they are of other shards, or damaged.
    """
    found: dict[str, HardNegatives] = {}
    each = config.data.hard_negatives
    asking = {name: one for name, one in sources.items() if each and uses_queries(one.losses)}
    for name, source in asking.items():
        own = config.data.sources[name].mined
        folder = folder_of_mined(source.split.store, own)
        if folder is not None and (own or has_mined(folder)):
            hard = hard_negatives(source.split, read_mined(folder, source.split), each)
            asked = np.unique(hard.query)
            mined = int(np.count_nonzero(hard.found[asked]))
            say(f"source {name}: negatives were mined for {mined:,} of {len(asked):,} queries")
            found[name] = hard
        else:
            say(f"source {name}: no mined negatives; {AGAIN}")
    if asking and not found:
        raise ConfigError(f"data.hard_negatives: no source has mined negatives; {AGAIN}")
    return found


def hard_negatives(split: Split, mined: Mined, each: int) -> HardNegatives:
    """Returns what hard negatives of a split are drawn from, by its judgments above 0.

    Raises:
        ShardError: the file of queries or of judgments is damaged.
    """
    samples, queries, gains = _positives(split)
    kind = _kinds(split)[queries].astype(np.int64)
    kinds = int(kind.max(initial=0)) + 1
    # A kind of a sample, in the order of samples.
    distinct, of = np.unique(samples * kinds + kind, return_inverse=True)
    total = np.bincount(of, weights=gains, minlength=len(distinct))
    number = np.bincount(distinct // kinds, minlength=len(split))
    share = np.cumsum(gains / total[of] / number[samples])
    starts = np.searchsorted(samples, np.arange(len(split) + 1))
    until = (share - np.append(0.0, share)[starts[samples]]).astype(np.float32)
    found = (mined >= 0).sum(axis=1, dtype=np.int32)
    return HardNegatives(starts, queries.astype(np.uint32), until, mined, found, each)


def _positives(split: Split) -> tuple[Numbers, Numbers, Float64[np.ndarray, " pairs"]]:
    """Returns sample, query and gain of each judgment above 0, in the order of samples."""
    none = np.zeros(0, np.int64)
    parts = [(none, none, np.zeros(0))]
    for pairs in split.judged:
        gains = np.where(pairs.own, 0, split.gains(pairs.grades))
        parts.append((pairs.sample[gains > 0], pairs.query[gains > 0], gains[gains > 0]))
    samples, queries, gains = map(np.concatenate, zip(*parts, strict=True))
    return samples, queries, gains


def _kinds(split: Split) -> Int32[np.ndarray, " queries"]:
    """Returns a number of each query's kind."""
    encoded = pc.dictionary_encode(split.asked.table()["kind"].combine_chunks())
    return encoded.indices.to_numpy(zero_copy_only=False)
