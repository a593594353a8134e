"""The vectors of all processes that losses contrast, and one sum of their gradients.

Candidates of a large step are hundreds of megabytes for each view. Autograd would make a gradient
of that size for each block of anchors, and keep those of all views to the end. Here blocks add to
one sum in place, and a side's vectors and gradients go as soon as no loss needs them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from beyond_text.config.views import View
from beyond_text.training.matryoshka import shorten
from beyond_text.training.processes import Processes


class Everyone:
    """The vectors of one side's views: own rows, and constants that hold the rows of all processes.

    A side that is opened after another one (`earlier`) is closed before it in the backward pass, on
    every process: their messages keep one order. Rows of the `guests` are sent along.
    """

    def __init__(
        self,
        own: Mapping[View, Tensor],
        processes: Processes,
        earlier: Everyone | None = None,
        guests: Sequence[Tensor] = (),
    ) -> None:
        self.earlier = earlier
        self.own = [rows.float() for rows in own.values()]
        found = processes.gather_together([*self.own, *guests])
        # Copied, or they would hold the memory of the vectors when these are let go.
        self.guests = [rows.clone() for rows in found[len(own) :]]
        self.sums = _Sums([*own], found[: len(own)], processes)
        self._token: Tensor | None = None

    @property
    def token(self) -> Float[Tensor, ""]:
        """What stands for all rows in the graph; made when it is first asked for."""
        if self._token is None:
            earlier = self.earlier and self.earlier.token
            own = self.own
            if self.sums.processes.world > 1 and torch.is_grad_enabled():
                # Every process takes part in the backward pass.
                own = [r if r.requires_grad else r.detach().requires_grad_() for r in own]
            self._token = _Token.apply(self.sums, earlier, *own)
        assert self._token is not None
        return self._token

    def pool(self, view: View) -> Pool:
        """Returns a view's rows as candidates."""
        return Pool(self, view)


class Pool(NamedTuple):
    """Candidates of one view: the rows of all processes, then `older` ones without gradient."""

    everyone: Everyone
    view: View
    older: Float[Tensor, "rows dim"] | None = None

    @property
    def vectors(self) -> Float[Tensor, "rows dim"]:
        """The rows of all processes."""
        return self.everyone.sums.vectors[self.view]

    @property
    def rows(self) -> int:
        """The number of candidates."""
        return len(self.vectors) + (0 if self.older is None else len(self.older))

    @property
    def is_later(self) -> bool:
        """Whether another side is opened before this one."""
        return self.everyone.earlier is not None

    def cosines(
        self, anchors: Float[Tensor, "anchors dim"], width: int = 0
    ) -> Float[Tensor, "anchors candidates"]:
        """Returns the cosine of every anchor and candidate, all unit vectors, in float32.

        Vectors are shortened to `width` numbers; 0: not at all.
        """
        width = width or anchors.shape[1]
        with torch.autocast(anchors.device.type, enabled=False):
            anchors = shorten(anchors.float(), width)
            found: Tensor = _Cosines.apply(
                anchors, self.everyone.token, self.everyone.sums, self.view, self.older
            )
            return found


class Pools(NamedTuple):
    """Candidates by view, and which of them have that view at all."""

    pools: Mapping[View, Pool]
    present: Mapping[View, Bool[Tensor, " rows"]]


class _Sums:
    """The rows of all processes by view, and the sum of what the losses' gradients are so far."""

    def __init__(self, views: list[View], rows: list[Tensor], processes: Processes) -> None:
        self.vectors = dict(zip(views, rows, strict=True))
        self.processes = processes
        self._total: Tensor | None = None
        # By view and width: one over the norms of shortened rows, and the gradients of their logs.
        self._scales: dict[tuple[View, int], Tensor] = {}
        self._pulls: dict[tuple[View, int], Tensor] = {}

    def scale(self, view: View, width: int) -> Float[Tensor, " rows"] | None:
        """Returns one over the norms of rows shortened to a width; None where none is shortened."""
        if width == self.vectors[view].shape[1]:
            return None
        if (view, width) not in self._scales:
            self._scales[view, width] = inverse_norms(self.vectors[view][:, :width])
        return self._scales[view, width]

    def of(self, view: View) -> Float[Tensor, "rows dim"]:
        """Returns the sum of the gradients of a view's rows, to be added to."""
        return self.total.unbind(dim=1)[[*self.vectors].index(view)]

    @property
    def total(self) -> Float[Tensor, "rows views dim"]:
        """The sums of all views."""
        if self._total is None:
            rows = next(iter(self.vectors.values()))
            self._total = rows.new_zeros(len(rows), len(self.vectors), rows.shape[1])
        return self._total

    def pull(self, view: View, along: Float[Tensor, " rows"], width: int) -> None:
        """Adds the products of shortened unit rows with their gradients."""
        if (view, width) in self._pulls:
            self._pulls[view, width] += along
        else:
            self._pulls[view, width] = along

    def taken(self) -> Float[Tensor, "rows views dim"]:
        """Returns the sums, and lets go of all that is held.

        A row shortened to r is divided by its norm n: what its gradient has along r / n is lost.
        """
        total = self.total
        for (view, width), along in self._pulls.items():
            share = along * self._scales[view, width].square()
            rows = self.vectors[view][:, :width]
            self.of(view)[:, :width].addcmul_(share[:, None], rows, value=-1)
        self.vectors, self._scales, self._pulls, self._total = {}, {}, {}, None
        return total


def inverse_norms(rows: Float[Tensor, "rows width"]) -> Float[Tensor, " rows"]:
    """Returns one over the norm of each row; a row of zeros stays one."""
    return torch.linalg.vector_norm(rows, dim=1).clamp(min=1e-12).reciprocal()


class _Token(torch.autograd.Function):
    """Stands between own rows and all cosines: sends the sums when all of these have added."""

    @staticmethod
    def forward(ctx: Any, sums: _Sums, earlier: Tensor | None, *own: Tensor) -> Tensor:
        ctx.sums = sums
        return own[0].new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor | None, ...]:
        sums = ctx.sums
        return None, None, *sums.processes.sum_of_own(sums.taken()).unbind(dim=1)


class _Cosines(torch.autograd.Function):
    """Products of anchors with the rows of a view; in backward, adds to the sums in place."""

    @staticmethod
    def forward(
        ctx: Any, anchors: Tensor, token: Tensor, sums: _Sums, view: View, older: Tensor | None
    ) -> Tensor:
        width = anchors.shape[1]
        parts = [sums.vectors[view]] if older is None else [sums.vectors[view], older]
        parts = [part[:, :width] for part in parts]
        scale = sums.scale(view, width)
        if older is None:
            found = anchors @ parts[0].T
        else:
            found = anchors.new_empty(len(anchors), sum(map(len, parts)))
            for part, place in zip(parts, found.split([*map(len, parts)], dim=1), strict=True):
                torch.mm(anchors, part.T, out=place)
            if scale is not None:
                scale = torch.cat([scale, inverse_norms(parts[1])])
        if scale is not None:
            found *= scale
        ctx.save_for_backward(anchors, scale, None if scale is None else found)
        ctx.parts, ctx.sums, ctx.view = parts[1:], sums, view
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        anchors, scale, found = ctx.saved_tensors
        width, rows = anchors.shape[1], ctx.sums.vectors[ctx.view]
        with torch.autocast(anchors.device.type, enabled=False):
            if ctx.needs_input_grad[1] and scale is not None:
                along = (gradient * found)[:, : len(rows)].sum(dim=0)
                ctx.sums.pull(ctx.view, along, width)
            scaled = gradient if scale is None else gradient * scale
            sizes = [len(rows), *map(len, ctx.parts)]
            fresh, *later = scaled.split(sizes, dim=1)
            of_anchors = None
            if ctx.needs_input_grad[0]:
                of_anchors = fresh @ rows[:, :width]
                for part, weight in zip(ctx.parts, later, strict=True):
                    of_anchors.addmm_(weight, part)
            if ctx.needs_input_grad[1]:
                ctx.sums.of(ctx.view)[:, :width].addmm_(fresh.T, anchors)
        return of_anchors, None, None, None, None
