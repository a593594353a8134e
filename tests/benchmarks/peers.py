"""The peers' own training loops and pipelines, with the recipe's encoders, products and batch.

open_clip reads samples of a picture and a .txt, so the shards are packed again for it, with the
pictures' bytes unchanged. Products without picture or text, or pairs without a query, are left out
for the peers, and are not counted on the recipe's side.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from beyond_text.config.settings import Config
from beyond_text.shards.split import Split
from tests.benchmarks.measure import rate, rate_of_batches, step_ends
from tests.benchmarks.recipe import Setting, prepare

# open_clip's default, float16 autocast, is made for GPUs: on a CPU, float32 takes its place.
AS_IT_COMES = [] if torch.cuda.is_available() else ["--precision", "fp32"]


def _packed(setting: Setting, split: Split) -> Path:
    """Packs the split's shards for open_clip, once; returns their folder."""
    folder = setting.scratch / "open_clip"
    if folder.is_dir():
        return folder
    folder.mkdir(parents=True)
    numbers = iter(range(len(split)))
    for shard, samples in enumerate(split.sizes):
        with tarfile.open(folder / f"{shard:06}.tar", "w") as tar:
            for number in islice(numbers, samples):
                content = split.products.read(number, ("json", "jpg"))
                text = split.text_of(json.loads(content["json"]))
                if "jpg" in content and text:
                    _add(tar, f"{number:09}.jpg", content["jpg"])
                    _add(tar, f"{number:09}.txt", text.encode())
    return folder


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


class OpenClip(NamedTuple):
    """What open_clip's command builds from its arguments before it trains."""

    args: Any
    model: nn.Module
    transform: Any
    tokenizer: Any

    def data(self) -> Any:
        """Returns open_clip's webdataset pipeline over the packed shards, from the beginning."""
        from open_clip_train.data import get_wds_dataset

        return get_wds_dataset(self.args, self.transform, True, tokenizer=self.tokenizer)

    @torch.inference_mode()
    def vectors_of(self, texts: Sequence[str]) -> Float[np.ndarray, "texts dim"]:
        """Returns the unit vectors of texts."""
        return self._vectors(self.model.encode_text, self.tokenizer(list(texts)))

    @torch.inference_mode()
    def vectors_of_pictures(
        self, pictures: UInt8[Tensor, "pictures 3 size size"]
    ) -> Float[np.ndarray, "pictures dim"]:
        """Returns the unit vectors of pictures."""
        visual: Any = self.model.visual
        mean, std = (
            torch.tensor(v, device=self.args.device).view(3, 1, 1)
            for v in (visual.image_mean, visual.image_std)
        )

        def encode(part: Tensor, **options: Any) -> Tensor:
            return self.model.encode_image((part / 255 - mean) / std, **options)

        return self._vectors(encode, pictures)

    def _vectors(self, encode: Any, inputs: Tensor) -> Float[np.ndarray, "inputs dim"]:
        self.model.eval()
        parts = [encode(part.to(self.args.device), normalize=True) for part in inputs.split(128)]
        self.model.train()
        return torch.cat(parts).float().cpu().numpy()


def _model_config(config: Config, encoder: Any, size: int) -> dict[str, Any]:
    """Returns open_clip's configuration of a model with the two encoders.

    Raises:
        ValueError: the image encoder is not one of timm's.
    """
    if not hasattr(encoder, "timm_model"):
        raise ValueError(f"{config.image_encoder.path}: open_clip takes image encoders of timm")
    return {
        "embed_dim": config.dim,
        "vision_cfg": {
            "timm_model_name": encoder.config.architecture,
            # The pooling of the encoder itself: the mean of positions, or the class token.
            "timm_pool": "",
            "timm_proj": "linear",
            "image_size": size,
        },
        "text_cfg": {
            "hf_model_name": config.text_encoder.path,
            "hf_tokenizer_name": config.text_encoder.path,
            "hf_proj_type": "linear",
            "hf_pooler_type": "mean_pooler",
            "context_length": config.text_encoder.max_length,
        },
    }


def open_clip_model(setting: Setting, batches: int, workers: int, *options: str) -> OpenClip:
    """Builds open_clip's model with our encoders' weights, its transform and its tokenizer."""
    import open_clip
    from open_clip_train import data
    from open_clip_train.distributed import init_distributed_device
    from open_clip_train.params import parse_args

    # webdataset 1 marks the end of a shard; open_clip, written for 0.2, takes the mark for a file.
    data.tar_file_expander = partial(data.tar_file_expander, eof_value=None)
    config = setting.config("stage1")
    prepared = prepare(config)
    settings = prepared.module.model.settings
    encoder: Any = prepared.module.model.image_tower.encoder
    path = setting.scratch / "recipe-towers.json"
    towers = _model_config(config, encoder, settings.image_size)
    path.write_text(json.dumps(towers), encoding="utf-8")
    open_clip.add_model_config(path)
    source = next(iter(prepared.data.sources.values()))
    shards = sorted(_packed(setting, source.split).iterdir())
    options_of_run = {
        "model": path.stem,
        "train-data": "::".join(map(str, shards)),
        "train-num-samples": batches * setting.batch,
        "batch-size": setting.batch,
        "workers": workers,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
    }
    words = [word for name, value in options_of_run.items() for word in (f"--{name}", str(value))]
    args = parse_args([*words, *options])
    init_distributed_device(args)
    args.wandb = args.distill = False
    model, transform, _ = open_clip.create_model_and_transforms(
        args.model,
        precision=args.precision,
        device=args.device,
        image_mean=tuple(settings.mean),
        image_std=tuple(settings.std),
        output_dict=True,
    )
    model.visual.trunk.load_state_dict(encoder.timm_model.state_dict())
    return OpenClip(args, model, transform, open_clip.get_tokenizer(args.model))


def _open_clip_optimizer(model: nn.Module, args: Any) -> torch.optim.Optimizer:
    """Returns AdamW with the groups that open_clip's command makes."""
    moving = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in moving if p.ndim < 2], "weight_decay": 0.0},
        {"params": [p for p in moving if p.ndim >= 2], "weight_decay": args.wd},
    ]
    return torch.optim.AdamW(groups, lr=args.lr, betas=(args.beta1, args.beta2), eps=args.eps)


def open_clip_training(
    setting: Setting, options: Sequence[str], peer: OpenClip | None = None
) -> Iterator[float]:
    """Yields the speed of stage 1 in open_clip's `train_one_epoch`, with command-line options."""
    from open_clip import create_loss
    from open_clip_train.scheduler import cosine_lr
    from open_clip_train.train import train_one_epoch

    batches = setting.warmup + setting.steps
    peer = peer or open_clip_model(setting, batches, setting.workers, *options)
    args, model = peer.args, peer.model
    optimizer = _open_clip_optimizer(model, args)
    schedule = cosine_lr(optimizer, args.lr, args.warmup, batches)
    scaler = torch.amp.GradScaler(args.device) if args.precision == "amp" else None
    running: Any = torch.compile(model) if args.torchcompile else model
    while True:
        data = {"train": peer.data()}
        with step_ends() as ends:
            train_one_epoch(
                running, data, create_loss(args), 0, optimizer, scaler, schedule, None, args
            )
        yield rate(ends, [setting.batch] * len(ends), setting.warmup)


def open_clip_loader(setting: Setting) -> Iterator[float]:
    """Yields the speed of webdataset's pipeline as open_clip builds it."""
    peer = open_clip_model(setting, setting.warmup + setting.loaded, setting.cores, *AS_IT_COMES)
    while True:
        sizes = (len(pictures) for pictures, _ in peer.data().dataloader)
        yield rate_of_batches(sizes, setting.warmup, setting.loaded)


def _pairs(setting: Setting, config: Config) -> dict[str, list[str]]:
    """Returns query and product text of the first pairs of stage 2, as many as are measured."""
    loader = prepare(config).loader
    plan: Any = loader.batch_sampler
    wanted = setting.batch * (setting.warmup + setting.steps)
    queries: list[str] = []
    texts: list[str] = []
    for draw in chain.from_iterable(plan):
        sample: Any = loader.dataset[draw]
        if sample.query and sample.query.query and sample.text:
            queries.append(sample.query.query)
            texts.append(sample.text)
        if len(queries) == wanted:
            break
    return {"anchor": queries, "positive": texts}


def sentence_transformer(setting: Setting) -> Any:
    """Returns the recipe's text encoder as a SentenceTransformer."""
    from sentence_transformers import SentenceTransformer

    config = setting.config("stage2")
    model = SentenceTransformer(config.text_encoder.path)
    model.max_seq_length = config.text_encoder.max_length
    return model


def sentence_transformers_training(
    setting: Setting, model: Any = None, **options: Any
) -> Iterator[float]:
    """Yields the speed of stage 2 by MultipleNegativesRankingLoss, with training arguments."""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    pairs = Dataset.from_dict(_pairs(setting, setting.config("stage2")))
    model = model or sentence_transformer(setting)
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(setting.scratch / "sentence_transformers"),
        per_device_train_batch_size=setting.batch,
        max_steps=setting.warmup + setting.steps,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **options,
    )
    loss = MultipleNegativesRankingLoss(model)
    while True:
        trainer = SentenceTransformerTrainer(model, arguments, train_dataset=pairs, loss=loss)
        with step_ends() as ends:
            trainer.train()
        yield rate(ends, [setting.batch] * len(ends), setting.warmup)
