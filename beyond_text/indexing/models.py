"""Says what an index must know of a model, a run's or an export's; imports no torch."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import yaml
from msgspec import Meta, Struct

from beyond_text.config.names import MODEL, check_finished
from beyond_text.config.settings import ConfigError
from beyond_text.encoding.digest import digest_of_run
from beyond_text.encoding.preprocessing import PREPROCESSING, read_preprocessing
from beyond_text.files import atomic_folder
from beyond_text.indexing.facts import KeptModel, file_of, files_of
from beyond_text.indexing.source import Reads

# The folder of an index that holds what encodes queries.
MODELS = "models"
Positive = Annotated[int, Meta(ge=1)]


class ModelFacts(NamedTuple):
    """A model that encodes products: where it lies, its digest, width, and what it reads.

    `widths` are those that its vectors were trained to be cut to.
    """

    path: Path
    digest: str
    dim: int
    reads: Reads
    widths: Sequence[int] = ()

    @property
    def is_export(self) -> bool:
        """Whether it is an export, which onnxruntime runs without torch."""
        return (self.path / PREPROCESSING).is_file()


class _Settings(Struct):
    """Those of a model's settings that matter here."""

    dim: Positive
    text_fields: list[str]
    image_size: Positive
    picture_size: Positive
    matryoshka: list[Positive] = []


def model_facts(path: Path) -> ModelFacts:
    """Reads what an index must know of a finished run's or an export's model.

    Raises:
        ConfigError: neither is there, or it is damaged.
    """
    if (path / PREPROCESSING).is_file():
        export = read_preprocessing(path)
        sizes = export.pictures.image_size, export.pictures.stored_size
        reads = Reads(list(export.texts.product_fields), *sizes)
        return ModelFacts(path, export.digest, export.dim, reads, export.widths)
    check_finished(path)
    folder = path / MODEL
    try:
        content = yaml.safe_load((folder / "settings.yaml").read_text(encoding="utf-8"))
        settings = msgspec.convert(content, _Settings)
        digest = digest_of_run(path)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, msgspec.ValidationError) as error:
        raise ConfigError(f"{folder}: not a whole model: {error}") from error
    sizes = settings.image_size, settings.picture_size
    reads = Reads(settings.text_fields, *sizes)
    return ModelFacts(path, digest, settings.dim, reads, settings.matryoshka)


def keep_model(model: ModelFacts, index: Path) -> KeptModel:
    """Copies what encodes queries into INDEX/models, unless it is there whole; says what it is."""
    name = f"{model.digest[:16]}-{'export' if model.is_export else 'run'}"
    folder = index / MODELS / name
    files = {file.as_posix(): file_of(model.path / file) for file in _query_side(model)}
    if files_of(folder) != files:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(folder, is_ours=Path.is_dir) as partial:
            for file in files:
                (partial / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(model.path / file, partial / file)
    return KeptModel(name, files)


def _query_side(model: ModelFacts) -> list[Path]:
    """Lists the files of a model that its queries need, as seen from its folder."""
    if model.is_export:
        found = [*model.path.glob("*.json"), *model.path.glob("onnx/*")]
        # Of an export's graphs, products have their own.
        found = [path for path in found if not path.name.startswith("product")]
    else:
        found = [*(model.path / MODEL).rglob("*"), model.path / "config.yaml"]
    return [path.relative_to(model.path) for path in found if path.is_file()]
