"""Gradients that losses add up in place are those of autograd; sides are closed in order."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from beyond_text.training.blocks import Sums, sums_over_blocks
from beyond_text.training.everyone import Everyone, Pool
from beyond_text.training.processes import Processes

ROWS, OLDER, ANCHORS, DIM = 7, 3, 5, 8


def unit_rows(rows: int, seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    vectors = F.normalize(torch.randn(rows, DIM, generator=random, dtype=torch.double), dim=1)
    vectors[1] = 0
    return vectors.float().requires_grad_()


@pytest.mark.parametrize("older", [None, unit_rows(OLDER, 9).detach()])
@pytest.mark.parametrize("widths", [[0], [3], [DIM], [2, 0, 5, 2]])
@pytest.mark.parametrize("block", [ANCHORS, 2])
def test_cosines_have_the_gradients_of_plain_products(
    widths: list[int], older: Tensor | None, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beyond_text.training.blocks.BLOCK", block)
    weights = [torch.randn(ANCHORS, ROWS + OLDER * (older is not None)) for _ in widths]

    def plain(anchors: Tensor, *views: Tensor) -> Tensor:
        total = torch.zeros(())
        for view in views:
            candidates = view if older is None else torch.cat([view, older])
            for width, weight in zip(widths, weights, strict=True):
                one, other = (
                    F.normalize(rows[:, : width or DIM], dim=1) if width not in (0, DIM) else rows
                    for rows in (anchors, candidates)
                )
                total = total + ((one @ other.T) ** 2 * weight).sum()
        return total

    def ours(anchors: Tensor, text: Tensor, image: Tensor) -> Tensor:
        everyone = Everyone({"text": text, "image": image}, Processes())
        total = torch.zeros(())
        for view in ("text", "image"):
            pool = everyone.pool(view)._replace(older=older)
            assert pool.rows == weights[0].shape[1]
            for width, weight in zip(widths, weights, strict=True):
                part = partial(sums, pool, width, weight)
                total = total + sums_over_blocks(part, pool.rows, anchors)[0]
        return total

    def sums(pool: Pool, width: int, weight: Tensor, rows: slice, anchors: Tensor) -> Sums:
        return (pool.cosines(anchors, width) ** 2 * weight[rows]).sum(), torch.ones(())

    found = []
    for function in (plain, ours):
        leaves = [unit_rows(n, seed) for seed, n in enumerate((ANCHORS, ROWS, ROWS))]
        value = function(*leaves)
        value.backward()
        # Shortening a row of zeros, which is no vector, divides by almost nothing.
        found.append([value.detach(), *(leaf.grad for leaf in leaves)])
    for got, expected in zip(found[1], found[0], strict=True):
        kept = [i for i in range(len(expected)) if i != 1] if expected.dim() else ...
        torch.testing.assert_close(got[kept], expected[kept], rtol=1e-5, atol=1e-5)


def test_a_side_that_is_opened_later_is_done_with_before_and_lets_go_of_its_vectors() -> None:
    own = [unit_rows(ROWS, seed) for seed in range(2)]
    queries = Everyone({"query": own[0]}, Processes())
    products = Everyone({"product": own[1]}, Processes(), queries)
    anchors = unit_rows(ANCHORS, 5)
    # Products are asked for first, and are opened later all the same.
    late = products.pool("product").cosines(anchors).sum()
    early = queries.pool("query").cosines(anchors).square().sum()
    (late + early).backward()
    assert not queries.sums.vectors
    assert not products.sums.vectors
    assert own[0].grad is not None
    assert own[1].grad is not None


def test_constants_and_frozen_anchors_have_no_gradient() -> None:
    constant, learned = unit_rows(ROWS, 0).detach(), unit_rows(ANCHORS, 1)
    Everyone({"text": constant}, Processes()).pool("text").cosines(learned).sum().backward()
    assert constant.grad is None
    torch.testing.assert_close(learned.grad, constant.sum(dim=0).expand(ANCHORS, DIM))
    everyone = Everyone({"text": learned}, Processes())
    learned.grad = None
    everyone.pool("text").cosines(constant).sum().backward()
    torch.testing.assert_close(learned.grad, constant.sum(dim=0).expand(ANCHORS, DIM))
