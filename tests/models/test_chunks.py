"""Tests that chunks change no vector, gradient of a loss, random draw or running statistic."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from beyond_text.config.settings import Losses
from beyond_text.config.views import PAIRS
from beyond_text.models.chunks import in_chunks
from beyond_text.models.fusion import FUSIONS
from beyond_text.training.losses import LOSSES
from tests.tiny import UNTAUGHT
from tests.training.test_module import some_batch, some_module


def gradients(
    folder: Path,
    chunk_size: int,
    fusion: str = "bilinear",
    loss: str = "info_nce",
    bf16: bool = False,
    training: bool = False,
    **weights: float,
) -> dict[str, Tensor]:
    """Returns the gradients of a step's losses, weighted by `weights`, by parameter name."""
    module = some_module(
        folder, chunk_size=chunk_size, fusion=fusion, loss=loss, losses=Losses(**weights)
    )
    module.train(training)
    torch.manual_seed(0)
    batch = some_batch()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        embeddings = module.model.embed(batch, module.views)
        total = module.weights(module.losses(batch, embeddings))
    total.backward()
    return {n: p.grad for n, p in module.named_parameters() if p.grad is not None}


def length(gradients: dict[str, Tensor]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients.values()]).norm()


CASES = [
    *(pytest.param("bilinear", "info_nce", {name: 1.0}, id=name) for name in UNTAUGHT),
    *(pytest.param("bilinear", loss, {"query_product": 1.0}, id=loss) for loss in LOSSES),
    *(
        pytest.param(fusion, "info_nce", dict.fromkeys(UNTAUGHT, 1.0), id=fusion)
        for fusion in FUSIONS
    ),
]


@pytest.mark.parametrize(("fusion", "loss", "weights"), CASES)
def test_gradients_of_chunks_are_those_of_the_whole(
    folder: Path, fusion: str, loss: str, weights: dict[str, float]
) -> None:
    whole = gradients(folder, 0, fusion, loss, **weights)
    chunked = gradients(folder, 3, fusion, loss, **weights)
    assert whole.keys() == chunked.keys()
    assert any("log_temperature" in name for name in whole) or set(weights) == {"clal"}
    # Near zero, the root in `block` is steep, and so enlarges rounding errors.
    limit = (1e-4 if fusion == "block" else 1e-5) * length(whole)
    for name, gradient in whole.items():
        assert (chunked[name] - gradient).norm() < limit, name
    # These are small beside the encoders' gradients, so each has a tolerance of its own.
    for name in filter(lambda name: "temperature" in name, whole):
        torch.testing.assert_close(chunked[name], whole[name], rtol=1e-4, atol=1e-6)


def test_in_bfloat16_gradients_of_chunks_are_those_of_the_whole_to_half_a_per_cent(
    folder: Path,
) -> None:
    weights = dict.fromkeys(PAIRS, 1.0)
    whole = gradients(folder, 0, bf16=True, **weights)
    chunked = gradients(folder, 3, bf16=True, **weights)
    gap = length({name: chunked[name] - whole[name] for name in whole})
    # Not 0, as sums of other sizes round differently. Float32 is five times further away.
    assert 0 < gap < 0.005 * length(whole)


@pytest.mark.parametrize("fusion", ["bilinear", "uniecs"])
@pytest.mark.parametrize("bf16", [False, True])
def test_in_training_gradients_are_those_of_the_chunks_kept_in_memory(
    folder: Path, monkeypatch: pytest.MonkeyPatch, fusion: str, bf16: bool
) -> None:
    weights = dict.fromkeys(UNTAUGHT, 1.0)
    found, other = (
        gradients(folder, size, fusion, bf16=bf16, training=True, **weights) for size in (3, 0)
    )
    monkeypatch.setattr(
        "beyond_text.models.chunks.checkpoint", lambda function, *rows, **_: function(*rows)
    )
    kept = gradients(folder, 3, fusion, bf16=bf16, training=True, **weights)
    gap = length({name: found[name] - kept[name] for name in kept})
    assert gap < 1e-5 * length(kept)
    # Dropout is on, and draws different numbers without chunks.
    assert length({name: found[name] - other[name] for name in kept}) > 0.01 * length(kept)


def drawn_network() -> nn.Sequential:
    """Returns a network with dropout and batch normalisation."""
    torch.manual_seed(0)
    layers = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 2)
    return nn.Sequential(*layers).train()


def test_dropout_is_replayed_and_moving_statistics_count_each_row_once() -> None:
    inputs = torch.randn(10, 4)
    plain, chunked = drawn_network(), drawn_network()
    torch.manual_seed(1)
    expected = torch.cat([plain(rows) for rows in inputs.tensor_split(3)])
    expected.square().sum().backward()
    after = torch.rand(1)
    torch.manual_seed(1)
    found = in_chunks(chunked, chunked, (inputs,), 4)
    found.square().sum().backward()
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(chunked.get_parameter(name).grad, parameter.grad)
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(chunked.get_buffer(name), buffer, rtol=0, atol=0)
    assert chunked[1].momentum == plain[1].momentum
    # The repetition leaves the random state as it was.
    torch.testing.assert_close(torch.rand(1), after, rtol=0, atol=0)


class Watched(nn.Module):
    """Multiplies by a weight twice, and keeps a weak reference to the tensor between."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.between: list[weakref.ref[Tensor]] = []
        self.most = 0

    def alive(self) -> Iterator[Tensor]:
        return (tensor for ref in self.between if (tensor := ref()) is not None)

    def forward(self, rows: Tensor) -> Tensor:
        between = rows * self.weight
        self.between.append(weakref.ref(between))
        self.most = max(self.most, sum(1 for _ in self.alive()))
        return between.square() * self.weight


def test_activations_of_one_chunk_at_a_time_are_alive() -> None:
    network = Watched()
    found = in_chunks(network, network, (torch.arange(12.0),), 3)
    assert not list(network.alive())
    found.sum().backward()
    assert len(network.between) == 8
    assert network.most == 1
    # The output is (w x)^2 w, whose gradient at w = 1 is 3 x^2.
    assert network.weight.grad == 3 * torch.arange(12.0).square().sum()


def test_no_chunk_is_a_small_rest_of_the_rows() -> None:
    seen: list[int] = []

    def double(rows: Tensor) -> Tensor:
        seen.append(len(rows))
        return 2 * rows

    for rows, expected in ((7, [4, 3]), (4, [4]), (9, [3, 3, 3])):
        seen.clear()
        given = torch.arange(rows).float()
        assert in_chunks(double, nn.Identity(), (given,), 4).equal(2 * given)
        assert seen == expected
