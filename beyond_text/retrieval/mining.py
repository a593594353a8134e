"""Mines hard negatives: the products that a model ranks highest among those nobody judged.

The threshold is that of NV-Retriever's TopK-PercPos (Moreira et al. 2024, arXiv 2407.15831): what
scores above a share of a positive's score is too likely a positive that nobody has judged yet. All
products are compared with every query; blocks of queries bound the memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int32, Int64
from tqdm import tqdm

from beyond_text.config.names import Against
from beyond_text.retrieval.catalogue import Catalogue, ShardProducts
from beyond_text.retrieval.encode import Encoder, Vectors, encode_products, encode_queries
from beyond_text.retrieval.query_set import QuerySet
from beyond_text.retrieval.read_split import shard_query_picture
from beyond_text.retrieval.twins import Spread, keys_of_products, twins_by
from beyond_text.shards.labels import keys_of_queries
from beyond_text.shards.split import Split

# Queries that are encoded at a time, and scores that are held at a time.
ENCODED = 2**14
SCORES = 2**24
NONE = -np.inf
# Which of a query's positives the threshold is a share of.
REFERENCE: dict[Against, np.ufunc] = {"lowest": np.minimum, "best": np.maximum}
Numbers = Int64[np.ndarray, " numbers"]
Scores = Float32[np.ndarray, "queries products"]


class Rule(NamedTuple):
    """What is mined: the `top` products of a query that score below a share of a positive's score.

    `against` says which positive: with `lowest`, the rule holds for each of a query's positives.
    """

    top: int = 32
    below: float = 0.95
    against: Against = "lowest"


class Found(NamedTuple):
    """Samples for each query, -1: no more; how many of them are judged 0 for it."""

    rows: Int32[np.ndarray, "queries top"]
    judged_zero: int


class Needs(NamedTuple):
    """Distinct queries and their judgments, in order of the query; those of one content are one.

    Attributes:
        number: of each query of the split, its distinct query.
        query: a query of the split for each distinct one.
        need, sample: judgments, of which `positive`, `zero` and `own` (it is the product itself)
            say what they are.
    """

    number: Numbers
    query: Numbers
    need: Numbers
    sample: Numbers
    positive: Bool[np.ndarray, " judgments"]
    zero: Bool[np.ndarray, " judgments"]
    own: Bool[np.ndarray, " judgments"]


def mine(encoder: Encoder, split: Split, rule: Rule) -> Found:
    """Mines the products of a split for its queries that have a positive.

    First come those that are judged 0, whatever their score, then the mined ones, each best first.
    A mined product is not judged for the query, and has neither group_id nor text nor picture of
    one that is relevant, or that is the query itself.

    Raises:
        ShardError: a product or the picture of a query cannot be read.
    """
    rule = rule._replace(top=min(rule.top, len(split)))
    needs = needs_of(split)
    products = _products(encoder, split)
    spreads = [twins_by(keys) for keys in keys_of_products(split)]
    # The last one stands for no product.
    samples = np.append(np.array(products.ids, dtype=np.int32), np.int32(-1))
    position = np.full(len(split), -1)
    position[samples[:-1]] = np.arange(len(products.ids))
    rows = np.full((len(needs.query), rule.top), -1, dtype=np.int32)
    zeros = np.zeros(len(needs.query), dtype=np.int64)
    for part, vectors in _encoded(encoder, split, needs):
        scores = vectors @ products.vectors.T
        judged = _Block(needs, part, position, scores)
        found, zeros[part] = _best(judged, spreads, rule)
        rows[part] = samples[found]
    return Found(rows[needs.number], int(zeros[needs.number].sum()))


def needs_of(split: Split) -> Needs:
    """Returns the distinct queries of a split: of the same words and the same picture.

    Raises:
        ShardError: the file of queries or of judgments is damaged.
    """
    contents = keys_of_queries(split.asked, split.query_pictures)
    _, query, number = np.unique(contents, return_index=True, return_inverse=True)
    parts = [(np.zeros(0, np.int64),) * 2 + (np.zeros(0), np.zeros(0, bool))]
    for pairs in split.judged:
        parts.append((number[pairs.query], pairs.sample, split.gains(pairs.grades), pairs.own))
    need, sample, gains, own = map(np.concatenate, zip(*parts, strict=True))
    order = np.argsort(need, kind="stable")
    need, sample, gains, own = need[order], sample[order], gains[order], own[order]
    positive = (gains > 0) & ~own
    # The best of the judgments of queries of one content holds.
    liked = np.unique(need[positive] * len(split) + sample[positive])
    zero = ~positive & ~own & ~np.isin(need * len(split) + sample, liked)
    return Needs(number, query, need, sample, positive, zero, own)


def _products(encoder: Encoder, split: Split) -> Vectors:
    """Encodes the products of a split, whose ids are their numbers."""
    size = encoder.model.settings.image_size
    places = [(0, sample) for sample in range(len(split))]
    catalogue = Catalogue(ShardProducts([split], places, size), list(map(str, range(len(split)))))
    return encode_products(encoder, catalogue)["product"]


def _encoded(
    encoder: Encoder, split: Split, needs: Needs
) -> Iterator[tuple[Numbers, Float32[np.ndarray, "queries dim"]]]:
    """Yields numbers of distinct queries that have a positive, and their vectors, in parts."""
    wanted = np.unique(needs.need[needs.positive])
    asked = split.asked.table()
    size = encoder.model.settings.image_size
    step = max(1, SCORES // max(1, len(split)))
    with tqdm(total=len(wanted), desc="mining", unit="query", disable=None) as bar:
        for first in range(0, len(wanted), ENCODED):
            block = wanted[first : first + ENCODED]
            queries = asked.take(needs.query[block]).to_pandas()
            picture = partial(shard_query_picture, split, queries["picture"].tolist(), size)
            queries["query_id"] = block.astype(str)
            encoded = encode_queries(encoder, QuerySet(queries, queries, picture))
            numbers = np.array(encoded.ids, dtype=np.int64)
            for start in range(0, len(numbers), step):
                part = slice(start, start + step)
                yield numbers[part], encoded.vectors[part]
                bar.update(len(numbers[part]))


class _Block:
    """The scores of some queries, and their judgments as pairs of a row and a product's position.

    Products without a vector are left out.
    """

    def __init__(self, needs: Needs, part: Numbers, position: Numbers, scores: Scores) -> None:
        inside = slice(*np.searchsorted(needs.need, [part[0], part[-1] + 1]))
        # A query that could not be encoded is none of the part.
        row = np.searchsorted(part, needs.need[inside])
        known = part[row] == needs.need[inside]
        self.row, self.sample = row[known], needs.sample[inside][known]
        self.place = position[self.sample]
        self.has_vector = self.place >= 0
        self.positive = needs.positive[inside][known]
        self.zero = needs.zero[inside][known]
        self.seed = self.positive | needs.own[inside][known]
        self.position = position
        self.scores = scores

    def pairs(self, chosen: Bool[np.ndarray, " judgments"]) -> tuple[Numbers, Numbers]:
        """Returns row and position of some of the judgments."""
        chosen = chosen & self.has_vector
        return self.row[chosen], self.place[chosen]


def _best(
    block: _Block, spreads: Sequence[Spread], rule: Rule
) -> tuple[Int64[np.ndarray, "queries top"], Numbers]:
    """Returns the positions of the best products of each query, -1: no more, and its zeros."""
    scores = block.scores
    zero_row, zero_place = (np.array(each) for each in block.pairs(block.zero))
    zero_score = scores[zero_row, zero_place]
    limit = _limits(block, rule)
    scores[block.pairs(np.ones(len(block.row), dtype=bool))] = NONE
    for spread in spreads:
        row, sample = spread(block.row[block.seed], block.sample[block.seed])
        place = block.position[sample]
        scores[row[place >= 0], place[place >= 0]] = NONE
    scores[scores >= limit[:, None]] = NONE
    best = torch.topk(torch.from_numpy(scores), min(rule.top, scores.shape[1]), dim=1)
    mined_score, mined_place = best.values.numpy(), best.indices.numpy()
    row, rank = np.nonzero(mined_score > NONE)
    rows = np.concatenate([zero_row, row])
    places = np.concatenate([zero_place, mined_place[row, rank]])
    scored = np.concatenate([zero_score, mined_score[row, rank]])
    is_mined = np.arange(len(rows)) >= len(zero_row)
    order = np.lexsort((places, -scored, is_mined, rows))
    # A product that is judged 0 twice, by queries of one content, stands once.
    rows, places, is_mined = rows[order], places[order], is_mined[order]
    first = np.unique(rows * scores.shape[1] + places, return_index=True)[1]
    kept = np.sort(first)
    rows, places, is_mined = rows[kept], places[kept], is_mined[kept]
    rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
    fits = rank < rule.top
    found = np.full((len(scores), rule.top), -1)
    found[rows[fits], rank[fits]] = places[fits]
    return found, np.bincount(rows[fits & ~is_mined], minlength=len(scores))


def _limits(block: _Block, rule: Rule) -> Float32[np.ndarray, " queries"]:
    """Returns the score that mined products of each query stay below; none where no positive is.

    A positive of a score below 0 is lowered, too.
    """
    row, place = block.pairs(block.positive)
    reference = REFERENCE[rule.against]
    limit = np.full(len(block.scores), NONE, dtype=np.float32)
    if len(row):
        distinct, first = np.unique(row, return_index=True)
        score = reference.reduceat(block.scores[row, place], first)
        limit[distinct] = score - np.float32(1 - rule.below) * np.abs(score)
    return limit
