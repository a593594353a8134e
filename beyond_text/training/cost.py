"""What a training step costs beside its towers: bytes that a process sends, and bytes it holds.

Closed forms in the size of a step; a test compares both with the tensors of real steps.
"""

from __future__ import annotations

from typing import NamedTuple

from beyond_text.training.blocks import BLOCK, NUMBERS
from beyond_text.training.relevance import KEPT

# Matrices of a block that are alive at once, in its backward pass, where the candidates are queries
# and where they are products: of a loss whose positives are few beside the candidates, and of
# UniECS's objectives.
MATRICES = {"info_nce": (8, 8), "ranked_nce": (9, 9), "sigmoid": (9, 9), "uniecs": (9, 15)}
# Those of a teacher's objective, whose candidates are products.
TAUGHT_MATRICES = 11
# Directions of all objectives whose matrices are held at once, where these are small.
DIRECTIONS = {"info_nce": 8, "ranked_nce": 8, "sigmoid": 4, "uniecs": 24}
# Bytes of a judgment: as it is sent (three keys, product and gain), and with what is made of it.
SENT_JUDGMENT = 32
HELD_JUDGMENT = 112


class Step(NamedTuple):
    """The size of a step: `products` of each process with `queries` each, in vectors of `dim`.

    `judgments` is the number that the process with most of them sends: those of queries of the
    batch, or with a memory all of its products'. `remembered` is the size of the memory. `taught`
    is the width of a teacher's vectors, 0 without one; its towers are left out as the model's are.
    Widths at which vectors are shortened cost nothing more: one is computed after the other.
    """

    processes: int
    products: int
    queries: int
    dim: int
    query_views: int = 1
    product_views: int = 3
    judgments: int = 0
    remembered: int = 0
    taught: int = 0

    @property
    def all_products(self) -> int:
        """The products of all processes."""
        return self.processes * self.products

    @property
    def all_queries(self) -> int:
        """The queries of all processes."""
        return self.all_products * self.queries

    @property
    def rows(self) -> int:
        """The vectors of all processes."""
        return self.query_views * self.all_queries + self.product_views * self.all_products

    @property
    def vectors(self) -> int:
        """The bytes of the vectors of all processes."""
        return 4 * self.dim * self.rows

    @property
    def query_vectors(self) -> int:
        """The bytes of those of queries."""
        return 4 * self.dim * self.query_views * self.all_queries

    @property
    def taught_vectors(self) -> int:
        """The bytes of a teacher's vectors of the products of all processes."""
        return 4 * self.taught * self.all_products


def messages(step: Step, terms: int) -> dict[str, int]:
    """Returns the bytes that each message of a step leaves on every process, `terms` sums in all.

    Those that end in `sum` or `largest` are reduced, `gradients` are reduced and scattered, and the
    others gathered.
    """
    columns = 3 * step.all_queries + 2 * step.all_products + step.rows + 4 * step.processes
    return {
        "columns": 8 * columns,
        "length, largest": 8 * 5,
        "judgments": SENT_JUDGMENT * step.judgments * step.processes,
        "vectors": step.vectors + step.taught_vectors,
        "losses, sum": 4 * 2 * terms,
        "gradients": step.vectors,
    }


def sent(step: Step, terms: int = 8) -> int:
    """Returns the bytes that a process sends in a step, in rings of processes.

    Gathering, or reducing and scattering, sends all parts but one; reducing to all does both.
    """
    found = messages(step, terms)
    twice = sum(size for name, size in found.items() if name.endswith(("sum", "largest")))
    return (sum(found.values()) + twice) * (step.processes - 1) // step.processes


def held(step: Step, loss: str) -> int:
    """Returns the most bytes that a process holds at once, beside towers, weights and activations.

    In the backward pass: the vectors of queries with their gradients, or of both sides with the
    gradients of products', which are done with first; own gradients; a block's matrices (of all
    objectives, where they are small); and the judgments. `loss` is a key of MATRICES. A teacher's
    vectors of products are held as they were gathered, with the products', and apart from these.
    """
    queries, products = step.query_vectors, step.vectors - step.query_vectors
    judgments = step.judgments * step.processes * (1 + step.remembered / step.all_products)
    # The remembered vectors of several batches, and one tensor of these.
    memory = 2 * 4 * step.dim * step.product_views * step.remembered
    of_queries, of_products = MATRICES[loss]
    if step.taught:
        of_products = max(of_products, TAUGHT_MATRICES)
    own_taught = 4 * step.taught * step.products * (step.queries + 1)
    return (
        queries
        + max(
            queries + _blocks(step, loss, of_queries),
            2 * products + step.taught_vectors + _blocks(step, loss, of_products),
        )
        + step.taught_vectors
        + own_taught
        + memory
        + 2 * step.vectors // step.processes
        + int(HELD_JUDGMENT * judgments)
        + 2 * messages(step, 0)["columns"]
    )


def _blocks(step: Step, loss: str, matrices: int) -> int:
    """Returns the bytes of the matrices [anchors, candidates] that are held at once."""
    copies = step.queries if loss == "uniecs" else 1
    own_queries = step.products * step.queries
    shapes = [
        (own_queries, (step.all_products + step.remembered) * copies),
        (own_queries if loss == "uniecs" else step.products, step.all_queries),
    ]
    numbers = max(
        min(anchors, BLOCK, max(1, NUMBERS // columns)) * columns for anchors, columns in shapes
    )
    return 4 * numbers * matrices * (DIRECTIONS[loss] if numbers <= KEPT else 1)
