"""One of several processes that compute losses of a slice of a batch; run by test_gathered.py."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import distributed as dist

from beyond_text.config.settings import Config, Losses, TextEncoder
from beyond_text.config.views import PAIRS, TEACHER
from beyond_text.shards.batch import Embeddings
from beyond_text.training.module import ContrastiveModule
from beyond_text.training.teacher import Teacher
from tests.models.test_two_tower import tiny_model
from tests.tiny import UNTAUGHT
from tests.training.counting import waits_of_a_step
from tests.training.global_batch import full_batch, global_batch, global_embeddings, slice_of

DIM, PRODUCTS, JUDGMENTS = 16, 8, 6
EVERY_PAIR = Losses(**dict.fromkeys(PAIRS, 1.0))
EVERYTHING = Losses(**dict.fromkeys(UNTAUGHT, 1.0))
# Settings of each case, and the number of queries of a product.
FUSIONS = ("bilinear", "moe", "attended", "uniecs")
CASES: dict[str, tuple[dict[str, Any], int]] = {
    "info_nce": ({"losses": EVERYTHING, "memory_size": 2 * PRODUCTS}, 2),
    "ranked_nce": ({"losses": EVERYTHING, "loss": "ranked_nce", "memory_size": PRODUCTS}, 1),
    "sigmoid": ({"losses": EVERY_PAIR, "loss": "sigmoid", "memory_size": 2 * PRODUCTS}, 3),
    "weighted": ({"losses": EVERY_PAIR, "negative_weight": 3.0, "memory_size": PRODUCTS}, 2),
    "weighted sigmoid": ({"losses": EVERY_PAIR, "loss": "sigmoid", "negative_weight": 3.0}, 1),
    "widths": ({"losses": EVERYTHING, "loss": "ranked_nce", "matryoshka": [4, 8, DIM]}, 2),
    "learned": ({"losses": EVERYTHING, "loss_weighting": "learned"}, 2),
    "first stage": ({"losses": Losses(text_image=1.0)}, 1),
}
# The public functions of torch.distributed that every process of a group must call together.
COLLECTIVES = [
    name
    for name in dir(dist)
    if name.startswith(("all_gather", "all_reduce", "all_to_all", "reduce", "broadcast", "gather"))
    or name in ("barrier", "monitored_barrier", "scatter", "scatter_object_list")
    if callable(getattr(dist, name))
]


@contextmanager
def counted() -> Iterator[list[tuple[str, int]]]:
    """Yields the collectives that are called, by name, and the bytes of their largest tensors."""
    calls: list[tuple[str, int]] = []
    inside = False
    originals = {name: getattr(dist, name) for name in COLLECTIVES}

    def wrapped(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal inside
            # One may be made of another.
            if inside:
                return original(*args, **kwargs)
            tensors = [value for value in args if isinstance(value, torch.Tensor)]
            calls.append((name, max((tensor.nbytes for tensor in tensors), default=0)))
            inside = True
            try:
                return original(*args, **kwargs)
            finally:
                inside = False

        return call

    for name, original in originals.items():
        setattr(dist, name, wrapped(name, original))
    try:
        yield calls
    finally:
        for name, original in originals.items():
            setattr(dist, name, original)


def module_of(folder: Path, settings: dict[str, Any], world: int) -> ContrastiveModule:
    """Returns the module of one of `world` processes."""
    config = Config(batch_size=PRODUCTS, dim=DIM, **settings)
    module = ContrastiveModule(tiny_model(folder, "bert", "vit", fusion=config.fusion), config)
    module.trainer = pl.Trainer(
        accelerator="cpu",
        devices=world,
        strategy="ddp" if world > 1 else "auto",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    return module


def step(folder: Path, name: str, rank: int, world: int) -> dict[str, Any]:
    """Returns the losses of the third of three batches, with gradients and what is remembered."""
    settings, queries = CASES[name]
    module = module_of(folder, settings, world)
    module.weights.train()
    collectives: list[tuple[str, int]] = []
    for seed in range(3):
        whole = global_batch(PRODUCTS, queries, JUDGMENTS, seed)
        batch = slice_of(whole, rank, world, queries)
        every = global_embeddings(sorted(module.views), PRODUCTS, queries, DIM, seed)
        own = slice_of(every, rank, world, queries)
        if rank == 1:
            # As where no sample of the slice can be read; the others say what the source feeds.
            batch = batch._replace(losses=())
        leaves = {view: rows.clone().requires_grad_() for view, rows in own.vectors.items()}
        gathered = module.gather(batch, Embeddings(leaves, own.present))
        if seed == 2:
            with counted() as collectives:
                losses = module.losses(batch, Embeddings(leaves, own.present))
                module.weights(losses).backward()
        module.memory.add(gathered)
    found = {n: p.grad for n, p in module.named_parameters() if p.grad is not None}
    return {
        "losses": {name: loss.detach() for name, loss in losses.items()},
        "vectors": {view: rows.grad for view, rows in leaves.items()},
        "parameters": found,
        "memory": module.memory.state(),
        "collectives": collectives,
    }


def waits(folder: Path, fusion: str, rank: int, world: int) -> list[dict[str, int]]:
    """Returns what three whole steps wait for, towers and gradients included, on a device."""
    settings = {"losses": EVERYTHING, "loss": "ranked_nce", "memory_size": 4 * PRODUCTS}
    settings |= {"negative_weight": 2.0, "loss_weighting": "learned", "fusion": fusion}
    module = module_of(folder, settings, world)
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    optimizer = module.configure_optimizers()["optimizer"]
    batch = full_batch(PRODUCTS // world, 2, seed=rank)
    return [dict(waits_of_a_step(module, batch, number, optimizer)) for number in range(3)]


def whole_step(folder: Path, rank: int, world: int) -> dict[str, Any]:
    """Returns the loss, gradients and collectives of a step with all that one may have."""
    losses = Losses(**dict.fromkeys((*UNTAUGHT, TEACHER), 1.0))
    settings: dict[str, Any] = {"losses": losses, "fusion": "moe", "fusion_balance": 0.5}
    # Dropout differs between processes.
    settings["text_encoder"] = TextEncoder(dropout=False)
    module = module_of(folder, settings, world)
    module.teacher = Teacher(tiny_model(folder, "bert", "vit", dim=DIM // 2 + 1))
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    whole = full_batch(PRODUCTS, 2)._replace(losses=(*UNTAUGHT, TEACHER), counts=None)
    batch = slice_of(whole, rank, world, 2)
    with counted() as collectives:
        module.on_train_batch_start(batch, 0)
        loss = module.training_step(batch, 0)
        loss.backward()
    found = {n: p.grad for n, p in module.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), "parameters": found, "collectives": collectives}


def work(folder: Path, out: Path, rank: int, world: int) -> None:
    """Runs all cases as process `rank`, and writes what they gave."""
    torch.set_num_threads(1)
    # As torchrun does.
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world), "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0",
    }  # fmt: skip
    if world > 1:
        store = dist.FileStore(str(out / f"store{world}"), world)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    found = {name: step(folder, name, rank, world) for name in CASES}
    waited = {f: waits(folder, f, rank, world) for f in FUSIONS}
    found["whole step"] = whole_step(folder, rank, world)
    torch.save(found | {"waits": waited}, out / f"{world}-{rank}.pt")
    if world > 1:
        dist.destroy_process_group()
