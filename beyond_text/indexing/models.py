"""Says what an index must know of a model before anything is encoded; imports no torch."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import yaml
from msgspec import Meta, Struct

from beyond_text.config.names import MODEL, check_finished
from beyond_text.config.settings import ConfigError
from beyond_text.files import atomic_folder
from beyond_text.indexing.facts import KeptModel, files_of
from beyond_text.indexing.source import Reads, digest_of_settings

# The folder of an index that holds what encodes queries.
MODELS = "models"
Positive = Annotated[int, Meta(ge=1)]


class ModelFacts(NamedTuple):
    """A model that encodes products: where it lies, its digest, width, and what it reads."""

    path: Path
    digest: str
    dim: int
    reads: Reads


class _Settings(Struct):
    """Those of a model's settings that matter here."""

    dim: Positive
    text_fields: list[str]
    image_size: Positive
    picture_size: Positive


def keep_model(model: ModelFacts, index: Path) -> KeptModel:
    """Copies what encodes queries into INDEX/models, unless it is there; says what it is."""
    name = f"{model.digest[:16]}-run"
    folder = index / MODELS / name
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(folder, is_ours=Path.is_dir) as partial:
            shutil.copytree(model.path / MODEL, partial / MODEL)
            if (model.path / "config.yaml").is_file():
                shutil.copy(model.path / "config.yaml", partial)
    return KeptModel(name, files_of(folder))


def model_facts(path: Path) -> ModelFacts:
    """Reads what an index must know of a finished run's model.

    Raises:
        ConfigError: no finished model there, or a damaged one.
    """
    check_finished(path)
    folder = path / MODEL
    try:
        content = yaml.safe_load((folder / "settings.yaml").read_text(encoding="utf-8"))
        settings = msgspec.convert(content, _Settings)
        digest = digest_of_settings({name: f.sha256 for name, f in files_of(folder).items()})
    except (OSError, UnicodeDecodeError, yaml.YAMLError, msgspec.ValidationError) as error:
        raise ConfigError(f"{folder}: not a whole model: {error}") from error
    sizes = settings.image_size, settings.picture_size
    return ModelFacts(path, digest, settings.dim, Reads(settings.text_fields, *sizes))
