"""Cross-batch memory: what it keeps of a batch, for how long, and how a checkpoint restores it."""

from __future__ import annotations

from pathlib import Path

import torch

from beyond_text.config.views import PRODUCT
from beyond_text.shards.batch import Batch, Qrels, QueryKeys
from beyond_text.training.contrasts import Contrasts
from beyond_text.training.cross_batch import Candidates, CrossBatchMemory, concatenate
from beyond_text.training.gathered import Gathered, gather
from beyond_text.training.processes import Processes
from tests.training.test_module import (
    GAINS,
    PRODUCT_KEY,
    ROWS,
    TEXT_KEY,
    some_batch,
    some_embeddings,
)


def gathered(queries_per_product: int = 1, batch: Batch | None = None) -> Gathered:
    batch = batch or some_batch(queries_per_product=queries_per_product)
    return gather(batch, some_embeddings(), queries_per_product, Processes(), True)


def remembered(memory: CrossBatchMemory) -> tuple[Candidates, list[Qrels]]:
    entries = list(memory)
    return concatenate([candidates for candidates, _ in entries]), [judged for _, judged in entries]


def test_the_first_row_of_each_product_is_kept_with_what_is_judged_of_it() -> None:
    memory, embeddings = CrossBatchMemory(ROWS), some_embeddings()
    memory.add(gathered(queries_per_product=2))
    candidates, (judged,) = remembered(memory)
    assert candidates.product_key.tolist() == PRODUCT_KEY[::2]
    assert candidates.text_key.tolist() == TEXT_KEY[::2]
    assert set(candidates.vectors) == set(PRODUCT)
    for view in PRODUCT:
        assert candidates.vectors[view].equal(embeddings.vectors[view][::2])
        assert candidates.present[view].equal(embeddings.present[view][::2])
    columns = judged.query.query, judged.product, judged.gain
    found = {
        (key, row): gain for key, row, gain in zip(*(c.tolist() for c in columns), strict=True)
    }
    assert found == {(key, row // 2): gain for (key, row), gain in GAINS.items() if row % 2 == 0}


def test_the_oldest_batches_make_room_and_too_large_ones_are_not_remembered() -> None:
    memory = CrossBatchMemory(2 * ROWS + 1)
    for number in range(4):
        batch = some_batch()._replace(text_key=torch.full((ROWS,), number))
        memory.add(gathered(batch=batch))
    assert memory.rows == 2 * ROWS
    assert remembered(memory)[0].text_key.tolist() == [2] * ROWS + [3] * ROWS
    small = CrossBatchMemory(ROWS - 1)
    small.add(gathered())
    assert small.rows == 0


def test_a_remembered_product_is_known_by_id_whatever_its_source_judged_of_it() -> None:
    """As where queries of fields stand beside a shop's own: one shop, two sources."""
    batch, memory = some_batch(), CrossBatchMemory(ROWS)
    others = QueryKeys(*(torch.zeros_like(key) for key in batch.qrels.query))
    memory.add(gathered(batch=batch._replace(qrels=batch.qrels._replace(query=others))))
    contrasts = Contrasts(gathered(batch=batch), memory.all(), pairs=["query_product"])
    both = contrasts.of_pair("query_product")
    found = both.first.relevance(slice(0, ROWS))
    assert found[:, ROWS:].equal(found[:, :ROWS])
    assert (found > 0).any()
    assert both.first.most_positives is not None
    assert both.first.most_positives() == int((found > 0).sum(dim=1).max())


def test_a_checkpoint_brings_back_the_same_memory(tmp_path: Path) -> None:
    memory, other = CrossBatchMemory(2 * ROWS), CrossBatchMemory(2 * ROWS)
    for _ in range(2):
        memory.add(gathered())
    other.add(gathered())
    torch.save(memory.state(), tmp_path / "state")
    other.load(torch.load(tmp_path / "state", weights_only=True))
    (candidates, judged), (again, judged_again) = remembered(memory), remembered(other)
    for view in PRODUCT:
        assert again.vectors[view].equal(candidates.vectors[view])
        assert again.present[view].equal(candidates.present[view])
    assert again.product_key.equal(candidates.product_key)
    assert again.text_key.equal(candidates.text_key)
    for one, two in zip(judged, judged_again, strict=True):
        order = one.product.argsort(stable=True)
        pairs = zip((*one.query, *one[1:]), (*two.query, *two[1:]), strict=True)
        assert all(a[order].equal(b) for a, b in pairs)
