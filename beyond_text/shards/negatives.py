"""Finds the judged negatives of samples: products that a query which wants them is judged 0 for.

Few are kept of each query and of each sample, so that what is held does not grow with the number of
judgments. Queries of the same words are one query.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64, UInt32

from beyond_text.shards.batch import query_text_key
from beyond_text.shards.judged import Pairs
from beyond_text.shards.split import Split

# The most judged negatives that are kept of a sample; a batch takes one of them.
MOST_NEGATIVES = 4
Numbers = Int64[np.ndarray, " numbers"]


def judged_negatives(
    split: Split,
) -> tuple[UInt32[np.ndarray, " bounds"], UInt32[np.ndarray, " pairs"]]:
    """Returns the judged negatives of sample i as `negatives[starts[i] : starts[i + 1]]`.

    Raises:
        ShardError: the file of queries or of judgments is damaged.
    """
    number = np.zeros(len(split) + 1, dtype=np.uint32)
    found = [np.zeros(0, dtype=np.uint32)]
    words = words_of(split)
    refused = _refused(split, words)
    for pairs in split.judged:
        wanted = (split.gains(pairs.grades) > 0) & ~pairs.own
        owner, negative = _few(pairs.sample[wanted], refused[words[pairs.query[wanted]]])
        found.append(negative)
        if len(owner):
            first, counts = int(owner[0]), np.bincount(owner - owner[0])
            number[first + 1 : first + 1 + len(counts)] += counts.astype(np.uint32)
    return np.cumsum(number, dtype=np.uint32), np.concatenate(found)


def words_of(split: Split) -> UInt32[np.ndarray, " queries"]:
    """Returns a number of each query's words: 0 for a query without words."""
    # Past the memory of `query_text_key`, which is for the queries of a batch.
    key = query_text_key.__wrapped__
    texts = (text for part in split.asked.columns for text in part["query"].to_pylist())
    keys = np.fromiter(map(key, texts), dtype=np.int64, count=len(split.asked))
    # As unsigned numbers, 0 comes first.
    number = np.unique(np.append(keys.view(np.uint64), np.uint64(0)), return_inverse=True)[1]
    return number[:-1].astype(np.uint32)


def _refused(split: Split, words: UInt32[np.ndarray, " queries"]) -> Int64[np.ndarray, "words few"]:
    """Returns a few samples that are judged 0 for each query's words; -1 where there are no more.

    There are none for a query without words, which may be known by its picture alone.
    """
    refused = np.full((int(words.max(initial=0)) + 1, MOST_NEGATIVES), -1, dtype=np.int64)
    filled = np.zeros(len(refused), dtype=np.int64)
    for pairs in split.judged:
        number, sample = _zeros(split, words, pairs)
        order = np.argsort(number, kind="stable")
        number, sample = number[order], sample[order]
        rank = filled[number] + np.arange(len(number)) - np.searchsorted(number, number)
        fits = rank < MOST_NEGATIVES
        refused[number[fits], rank[fits]] = sample[fits]
        distinct, counts = np.unique(number, return_counts=True)
        filled[distinct] += counts
    return refused


def _zeros(
    split: Split, words: UInt32[np.ndarray, " queries"], pairs: Pairs
) -> tuple[Numbers, Numbers]:
    """Returns words and sample of each judgment of 0."""
    number = words[pairs.query].astype(np.int64)
    is_zero = (split.gains(pairs.grades) == 0) & ~pairs.own & (number > 0)
    return number[is_zero], pairs.sample[is_zero]


def _few(
    owner: Numbers, refused: Int64[np.ndarray, "wanted few"]
) -> tuple[Numbers, UInt32[np.ndarray, " pairs"]]:
    """Returns pairs of an owner and a negative, no more than a few of each owner.

    `refused` are the negatives for each query that an owner, in order, is wanted for.
    """
    # One of each query before the second of any.
    rank = np.broadcast_to(np.arange(refused.shape[1]), refused.shape)
    is_there = refused >= 0
    owners = np.broadcast_to(owner[:, None], refused.shape)[is_there]
    order = np.lexsort((rank[is_there], owners))
    owners, negative = owners[order], refused[is_there][order]
    kept = np.arange(len(owners)) - np.searchsorted(owners, owners) < MOST_NEGATIVES
    return owners[kept], negative[kept].astype(np.uint32)
