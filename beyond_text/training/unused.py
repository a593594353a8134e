"""Tells DDP whether some weights may lack a gradient in a step, so that it looks for them.

Looking costs a walk through the graph and one more exchange in every step. It is needed where the
part of a batch that a process has may lack a view: products without pictures, texts or queries.
Where none can, the weights without a gradient are the same in every step, and are known before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.strategies import DDPStrategy

from beyond_text.config.views import PAIRS, TEACHER
from beyond_text.retrieval.encode import evaluating, to_device
from beyond_text.shards.batch import Judgment, Sample
from beyond_text.shards.roles import roles_of
from beyond_text.training.losses import temperature_name

if TYPE_CHECKING:
    from beyond_text.training.datamodule import ShardData
    from beyond_text.training.module import ContrastiveModule

# Fewer products might all be unreadable.
FEWEST = 4


def tell_unused(trainer: Trainer, module: ContrastiveModule, data: ShardData) -> None:
    """Sets DDP's `find_unused_parameters`, unless the strategy's name has done so."""
    strategy = trainer.strategy
    if not isinstance(strategy, DDPStrategy):
        return
    arguments = strategy._ddp_kwargs
    share = module.config.batch_size // trainer.world_size
    looks = arguments.setdefault(
        "find_unused_parameters", share < FEWEST or not always_alike(module, data)
    )
    if not looks:
        # DDP's own way to leave out weights that never get a gradient.
        module._ddp_params_and_buffers_to_ignore = unused_weights(module, data)  # type: ignore


def always_alike(module: ContrastiveModule, data: ShardData) -> bool:
    """Returns whether every product has all that the run's losses need, in every step."""
    config = module.config
    if config.data.modality_dropout or config.compile or module.model.fusion.tokens:
        return False
    if not PAIRS.keys() >= module.weights.fixed.keys():
        return False
    for name, source in data.sources.items():
        split, asked = source.split, module.weights.fixed.keys() - {"text_image"}
        if (
            set(source.losses) != module.weights.fixed.keys()
            or split.counts["pictures"] < len(split)
            or (asked and len(split.query_pictures))
            or not data.roles[name].anchor.all()
            or not roles_of(split, ["text_image"]).anchor.all()
        ):
            return False
    return True


def unused_weights(module: ContrastiveModule, data: ShardData) -> list[str]:
    """Returns the names of the trainable weights that no loss of the run reaches.

    A product with text, picture and query tells: it is encoded, and the vectors are followed back.
    """
    size = data.collate.picture_size
    picture = torch.full((3, size, size), 128, dtype=torch.uint8)
    probe = Sample("probe", "a red rug", picture, [], Judgment("probe", "red rug", ""))
    trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
    with evaluating(module.model), torch.enable_grad():
        batch = to_device(module.device, data.collate([probe]))
        vectors = module.model.embed(batch, module.views).vectors
        total = torch.stack([vector.sum() for vector in vectors.values()]).sum()
        found = torch.autograd.grad(total, list(trainable.values()), allow_unused=True)
    reached = {
        id(parameter)
        for parameter, gradient in zip(trainable.values(), found, strict=True)
        if gradient is not None
    }
    for loss in module.weights.fixed.keys() - {TEACHER}:
        temperature = module.model.temperatures[temperature_name(loss)]
        reached.add(id(temperature.log_temperature))
        if module.config.loss == "sigmoid":
            reached.add(id(temperature.bias))
    if module.weights.log_variance is not None:
        reached.add(id(module.weights.log_variance))
    # A weight of two names is left out by both.
    names = module.named_parameters(remove_duplicate=False)
    return [name for name, p in names if p.requires_grad and id(p) not in reached]
