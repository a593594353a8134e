"""Two towers: the query's text encoder, and the product's text and image encoders with fusion.

All views live in one space of `dim`. A projection whose encoder already has that width starts as
the identity, so an untouched CLIP scores as CLIP does. Towers that no view needs are not run.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from beyond_text.batch import Batch, Embeddings, Tokens, rows_of
from beyond_text.config import PAIRS, Config, ConfigError, View
from beyond_text.fusion import FUSIONS
from beyond_text.towers import (
    ImageTower,
    TextTower,
    Tower,
    encoder_picture_size,
    load_encoder,
    picture_statistics,
)


@dataclass
class ModelSettings:
    """What rebuilds a model around its weights; saved beside them."""

    dim: int
    fusion: str
    fusion_rank: int
    share_text_encoder: bool
    pooling: str
    max_length: int
    image_size: int
    # Longest side of stored pictures, in pixels: what inference must reduce to first.
    picture_size: int
    mean: list[float]
    std: list[float]
    text_fields: list[str]
    loss: str
    temperature: float
    temperature_min: float


def settings_of(config: Config, picture_size: int) -> ModelSettings:
    """The model's part of a run's configuration, with what the encoders themselves say.

    `picture_size` is what the shards' pictures were reduced to.
    """
    image = config.image_encoder
    mean, std = picture_statistics(image.path)
    return ModelSettings(
        dim=config.dim,
        fusion=config.fusion,
        fusion_rank=config.fusion_rank,
        share_text_encoder=config.share_text_encoder,
        pooling=config.text_encoder.pooling,
        max_length=config.text_encoder.max_length,
        image_size=image.image_size or encoder_picture_size(image.path),
        picture_size=picture_size,
        mean=list(mean),
        std=list(std),
        text_fields=list(config.data.text_fields),
        loss=config.loss,
        temperature=config.temperature,
        temperature_min=config.temperature_min,
    )


class Temperature(nn.Module):
    """A learned temperature and SigLIP's bias, of one pair of views; clamped after each step."""

    def __init__(self, start: float, smallest: float) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.tensor(start).log())
        self.bias = nn.Parameter(torch.tensor(-10.0))
        self.smallest = smallest

    @property
    def value(self) -> Float[Tensor, ""]:
        """The temperature that cosines are divided by."""
        return self.log_temperature.exp()

    @torch.no_grad()
    def clamp(self) -> None:
        """Keeps the temperature between its smallest value and 1."""
        low = torch.tensor(self.smallest).log().item()
        self.log_temperature.clamp_(low, 0.0)


def _projection(width: int, dim: int) -> nn.Linear:
    layer = nn.Linear(width, dim, bias=False)
    if width == dim:
        nn.init.eye_(layer.weight)
    else:
        nn.init.orthogonal_(layer.weight)
    return layer


def _width(tower: Tower, setting: str, *inputs: Tensor) -> int:
    """Size of a tower's pooled vector; refuses inputs larger or smaller than the encoder takes."""
    try:
        return tower(*inputs).shape[1]
    except (AssertionError, IndexError, RuntimeError, ValueError) as error:
        raise ConfigError(f"{setting}: not for {tower.settings.name_or_path}: {error}") from error


class TwoTower(nn.Module):
    """Query tower and product tower; `embed` gives the unit vectors of the views asked for.

    Raises:
        ConfigError: text length or picture size that an encoder cannot take.
    """

    def __init__(
        self,
        settings: ModelSettings,
        text: nn.Module,
        image: nn.Module,
        query: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.text_tower = TextTower(text, settings.pooling)
        self.image_tower = ImageTower(image, tuple(settings.mean), tuple(settings.std))
        self.own_query_tower = TextTower(query, settings.pooling) if query is not None else None
        text_width, image_width = self._widths()
        self.query_projection = _projection(text_width, settings.dim)
        self.text_projection = _projection(text_width, settings.dim)
        self.image_projection = _projection(image_width, settings.dim)
        self.fusion = FUSIONS[settings.fusion](settings.dim, settings.fusion_rank)
        self.temperatures = nn.ModuleDict(
            {name: Temperature(settings.temperature, settings.temperature_min) for name in PAIRS}
        )

    @torch.no_grad()
    def _widths(self) -> tuple[int, int]:
        """Sizes of the two pooled vectors, by asking the towers with the largest inputs."""
        self.eval()
        length, size = self.settings.max_length, self.settings.image_size
        tokens = torch.ones(1, length, dtype=torch.long)
        picture = torch.zeros(1, 3, size, size, dtype=torch.uint8)
        widths = (
            _width(self.text_tower, f"text_encoder.max_length={length}", tokens, tokens),
            _width(self.image_tower, f"image_encoder.image_size={size}", picture),
        )
        self.train()
        return widths

    @property
    def query_tower(self) -> TextTower:
        """The query's encoder: the product text's own where they share."""
        return self.own_query_tower or self.text_tower

    def groups(self) -> dict[str, list[tuple[str, nn.Parameter]]]:
        """Every parameter once, with its name, by the group whose learning rate moves it."""
        owners = {
            "text_tower": "text_encoder",
            "own_query_tower": "query_encoder",
            "image_tower": "image_encoder",
            "fusion": "fusion",
            "temperatures": "temperature",
        }
        groups: dict[str, list[tuple[str, nn.Parameter]]] = {
            name: [] for name in (*owners.values(), "projections")
        }
        for name, parameter in self.named_parameters():
            groups[owners.get(name.split(".")[0], "projections")].append((name, parameter))
        return groups

    def encode_text(self, tokens: Tokens) -> Float[Tensor, "texts dim"]:
        """Unit vectors of product texts."""
        return self._project(self.text_tower, self.text_projection, tokens)

    def encode_query(self, tokens: Tokens) -> Float[Tensor, "texts dim"]:
        """Unit vectors of queries."""
        return self._project(self.query_tower, self.query_projection, tokens)

    def encode_image(self, image: Tensor) -> Float[Tensor, "pictures dim"]:
        """Unit vectors of uint8 pictures [pictures, 3, size, size]."""
        if len(image) == 0:
            return torch.zeros(0, self.settings.dim, device=image.device)
        return F.normalize(self.image_projection(self.image_tower(image)).float(), dim=1)

    def _project(self, tower: TextTower, projection: nn.Linear, tokens: Tokens) -> Tensor:
        if len(tokens.input_ids) == 0:
            return torch.zeros(0, self.settings.dim, device=tokens.input_ids.device)
        return F.normalize(projection(tower(*tokens)).float(), dim=1)

    def embed(self, batch: Batch, views: Collection[View]) -> Embeddings:
        """Unit vectors [rows, dim] of the views asked for; only the towers these need are run."""
        has_text, has_image = batch.text_row >= 0, batch.image_row >= 0
        present = {
            "query": batch.query_row >= 0,
            "text": has_text,
            "image": has_image,
            "product": has_text | has_image,
        }
        wants = set(views)
        uses = set(self.fusion.uses) if "product" in wants else set()
        vectors: dict[View, Tensor] = {}
        if "query" in wants:
            vectors["query"] = rows_of(self.encode_query(batch.query), batch.query_row)
        for view, has, other in (("text", has_text, has_image), ("image", has_image, has_text)):
            # A control that uses one modality needs the other just where its own is missing.
            needed = view in wants | uses or ("product" in wants and bool((has & ~other).any()))
            if needed and view == "text":
                vectors["text"] = rows_of(self.encode_text(batch.text), batch.text_row)
            elif needed:
                vectors["image"] = rows_of(self.encode_image(batch.image), batch.image_row)
        if "product" in wants:
            nothing = torch.zeros(len(has_text), self.settings.dim, device=has_text.device)
            vectors["product"] = self.fusion(
                vectors.get("text", nothing), vectors.get("image", nothing), has_text, has_image
            )
        kept = {view: vectors[view] for view in wants}
        return Embeddings(kept, {view: present[view] for view in wants})


def build_model(settings: ModelSettings, text: str, image: str, pretrained: bool) -> TwoTower:
    """The model around encoders from hub names or folders, with their weights if `pretrained`."""
    query = None if settings.share_text_encoder else load_encoder(text, pretrained)
    encoders = load_encoder(text, pretrained), load_encoder(image, pretrained)
    return TwoTower(settings, *encoders, query)
