"""Joins the query's text encoder, the product's text and image encoders, and their fusion.

All views are vectors of one space of `dim`. A projection whose encoder already has that width
starts as the identity, so an untouched CLIP scores as CLIP does. Towers that no view needs are not
run.

A query may hold a picture, as a product does: either side has a text, a picture and a fused view.
A fusion of vectors fuses those of the towers. A fusion of tokens (UniECS) takes the towers'
projected token sequences, and makes all three vectors of a side itself, by one encoder for both
sides.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from beyond_text.config.settings import ConfigError
from beyond_text.config.views import PAIRS, PRODUCT, QUERY, Side, View
from beyond_text.models.chunks import in_chunks
from beyond_text.models.encoders import load_encoder
from beyond_text.models.fusion import FUSIONS, UniecsFusion
from beyond_text.models.layers import projection, spread_tokens
from beyond_text.models.sentence import build_head, load_head, read_sentence_settings
from beyond_text.models.settings import ModelSettings
from beyond_text.models.temperature import Temperature
from beyond_text.models.towers import ImageTower, TextTower, Tower
from beyond_text.shards.batch import Batch, Embeddings, Tokens, rows_of


def build_model(
    settings: ModelSettings, text: str, image: str, pretrained: bool, drop_path: float = 0.0
) -> TwoTower:
    """Builds the model around encoders from hub names or folders, with weights if `pretrained`.

    `drop_path` is the rate of the image encoder's stochastic depth in training.
    """
    own = read_sentence_settings(text) if pretrained else None
    folder = own.encoder if own else text
    query = (
        None
        if settings.share_text_encoder
        else load_encoder(folder, pretrained, unused=TextTower.unused)
    )
    encoders = (
        load_encoder(folder, pretrained, unused=TextTower.unused),
        load_encoder(image, pretrained, drop_path, ImageTower.unused),
    )
    model = TwoTower(settings, *encoders, query)
    if pretrained:
        for tower in model.towers.values():
            if isinstance(tower, TextTower):
                load_head(tower.head, text)
    return model


class TwoTower(nn.Module):
    """Encodes queries and products; `embed` returns the unit vectors of the wanted views.

    Raises:
        ConfigError: an encoder cannot take the text length or the picture size.
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
        # Rows whose activations training holds at a time; 0 holds those of all rows.
        self.chunk_size = 0
        self.text_tower = _text_tower(text, settings)
        statistics = tuple(settings.mean), tuple(settings.std)
        self.image_tower = ImageTower(image, *statistics, settings.image_pooling)
        self.image_tower.size = settings.image_size
        self.own_query_tower = _text_tower(query, settings) if query is not None else None
        text_width, image_width = self._widths()
        fusion = FUSIONS[settings.fusion]
        self.query_projection = projection(text_width, settings.dim)
        # A fusion of tokens encodes both sides by one encoder, so they share a projection.
        self.text_projection = (
            self.query_projection if fusion.tokens else projection(text_width, settings.dim)
        )
        self.image_projection = projection(image_width, settings.dim)
        # How much a picture counts in a fusion of vectors, beside a text's 1: its logarithm.
        self.image_log_weight = nn.Parameter(torch.zeros(()))
        self.fusion = fusion(settings.dim, settings.fusion_rank)
        for tower in self.towers.values():
            tower.gives_tokens = fusion.tokens
        self.temperatures = nn.ModuleDict(
            {name: Temperature(settings.temperature, settings.temperature_min) for name in PAIRS}
        )

    @torch.no_grad()
    def _widths(self) -> tuple[int, int]:
        """Returns the widths of what is projected, by running the towers on the largest inputs."""
        self.eval()
        as_tokens = FUSIONS[self.settings.fusion].tokens
        length, size = self.settings.max_length, self.settings.image_size
        tokens = torch.ones(1, length, dtype=torch.long)
        picture = torch.zeros(1, 3, size, size, dtype=torch.uint8)
        widths = (
            _width(self.text_tower, as_tokens, f"text_encoder.max_length={length}", tokens, tokens),
            _width(self.image_tower, as_tokens, f"image_encoder.image_size={size}", picture),
        )
        self.train()
        return widths

    @property
    def towers(self) -> dict[str, TextTower | ImageTower]:
        """The towers by name, each once."""
        towers: dict[str, TextTower | ImageTower] = {
            "text_tower": self.text_tower,
            "image_tower": self.image_tower,
        }
        if self.own_query_tower is not None:
            towers["own_query_tower"] = self.own_query_tower
        return towers

    @property
    def widths(self) -> dict[str, int]:
        """The width of each tower's pooled vector, by the tower's name."""
        projections = {
            "text_tower": self.text_projection,
            "image_tower": self.image_projection,
            "own_query_tower": self.query_projection,
        }
        return {name: projections[name].in_features for name in self.towers}

    @property
    def query_tower(self) -> TextTower:
        """The tower of queries: that of product texts, where they share an encoder."""
        return self.own_query_tower or self.text_tower

    def groups(self) -> dict[str, list[tuple[str, nn.Parameter]]]:
        """Lists every parameter once, with its name, by the group whose learning rate moves it."""
        owners = {
            "text_tower": "text_encoder",
            "own_query_tower": "query_encoder",
            "image_tower": "image_encoder",
            "fusion": "fusion",
            "temperatures": "temperature",
            "image_log_weight": "temperature",
        }
        groups: dict[str, list[tuple[str, nn.Parameter]]] = {
            name: [] for name in (*owners.values(), "projections")
        }
        for name, parameter in self.named_parameters():
            groups[owners.get(name.split(".")[0], "projections")].append((name, parameter))
        return groups

    def set_temperature(self, value: float) -> None:
        """Gives every pair of views the same temperature."""
        for temperature in self.temperatures.values():
            assert isinstance(temperature, Temperature)
            temperature.restart(value)

    def encode_text(self, tokens: Tokens) -> Float[Tensor, "texts dim"]:
        """Returns unit vectors of product texts."""
        return self._vectors(self.text_tower, self.text_projection, tokens)

    def encode_query(self, tokens: Tokens) -> Float[Tensor, "texts dim"]:
        """Returns unit vectors of query texts."""
        return self._vectors(self.query_tower, self.query_projection, tokens)

    def encode_image(self, image: Tensor) -> Float[Tensor, "pictures dim"]:
        """Returns unit vectors of uint8 pictures [pictures, 3, size, size]."""
        return self._vectors(self.image_tower, self.image_projection, (image,))

    def image_features(self, image: Tensor) -> Float[Tensor, "pictures features"]:
        """Returns what the image projection maps, of uint8 pictures [pictures, 3, size, size].

        A fusion of tokens has each token projected; here their mean stands for them.
        """
        if self.fusion.tokens:
            tokens, _ = self.image_tower.tokens(image)
            return F.normalize(tokens.float(), dim=2).mean(dim=1)
        return self.image_tower(image)

    def _vectors(self, tower: Tower, projection: nn.Linear, inputs: tuple[Tensor, ...]) -> Tensor:
        """Returns unit vectors of a tower's inputs [inputs, dim]."""
        if len(inputs[0]) == 0:
            return torch.zeros(0, self.settings.dim, device=inputs[0].device)

        def vectors(*rows: Tensor) -> Tensor:
            return F.normalize(projection(tower.pooled(*rows)).float(), dim=1)

        return in_chunks(vectors, tower, inputs, self.chunk_size)

    def _states(
        self, tower: TextTower | ImageTower, projection: nn.Linear, inputs: tuple[Tensor, ...]
    ) -> tuple[Float[Tensor, "inputs length dim"], Bool[Tensor, "inputs length"]]:
        """Returns projected unit tokens of a tower's inputs, and which of them are real."""
        if len(inputs[0]) == 0:
            empty = torch.zeros(0, 1, self.settings.dim, device=inputs[0].device)
            return empty, empty[:, :, 0].bool()

        def states(*rows: Tensor) -> tuple[Tensor, Tensor]:
            # Of texts, without their lengths.
            tokens, mask = tower.tokens(*rows[:2])
            return projection(F.normalize(tokens.float(), dim=2)).float(), mask

        return in_chunks(states, tower, inputs, self.chunk_size)

    def embed(self, batch: Batch, views: Collection[View]) -> Embeddings:
        """Returns unit vectors [rows, dim] of the wanted views; runs only the towers they need.

        A query with a picture is fused as a product is. A query without one has its text's vector;
        a fusion of tokens makes that one too, from the text's tokens.
        """
        wanted: set[View] = set(views)
        rows = batch.rows
        has = {view: row >= 0 for view, row in rows.items()}
        needed = self._needed_views(wanted, has)
        if self.fusion.tokens:
            vectors = self._fuse_tokens(batch, rows, wanted, needed)
        else:
            vectors = self._fuse_vectors(batch, rows, wanted, needed)
        present = has | {side.fused: has[side.text] | has[side.image] for side in (QUERY, PRODUCT)}
        return Embeddings({v: vectors[v] for v in wanted}, {v: present[v] for v in wanted})

    def _needed_views(self, wanted: set[View], has: Mapping[View, Tensor]) -> set[View]:
        """Returns the views of one modality that are wanted, or that a wanted fused view needs."""
        needed = wanted - {QUERY.fused, PRODUCT.fused}
        for side in (QUERY, PRODUCT):
            for view, modality, other in (
                (side.text, "text", side.image),
                (side.image, "image", side.text),
            ):
                # A control of one modality needs the other only where its own is missing.
                if side.fused in wanted and (
                    modality in self.fusion.uses or bool((has[view] & ~has[other]).any())
                ):
                    needed.add(view)
        return needed

    def _encode_views(
        self,
        batch: Batch,
        rows: Mapping[View, Tensor],
        needed: set[View],
        encode: Callable[..., Any],
        spread: Callable[..., Any],
    ) -> dict[View, Any]:
        """Encodes the needed texts and pictures, each once, and spreads them over the rows."""
        encoded: dict[View, Any] = {}
        if "trigger_text" in needed:
            queries = encode(self.query_tower, self.query_projection, batch.queries_with_lengths)
            encoded["trigger_text"] = spread(queries, rows["trigger_text"])
        if "text" in needed:
            texts = encode(self.text_tower, self.text_projection, batch.texts_with_lengths)
            encoded["text"] = spread(texts, rows["text"])
        images, first = _pictures(batch, needed)
        pictures = encode(self.image_tower, self.image_projection, (images,))
        if "image" in needed:
            encoded["image"] = spread(pictures, rows["image"] - first)
        if "trigger_image" in needed:
            encoded["trigger_image"] = spread(pictures, rows["trigger_image"] - first)
        return encoded

    def _fuse_vectors(
        self, batch: Batch, rows: Mapping[View, Tensor], wanted: set[View], needed: set[View]
    ) -> dict[View, Tensor]:
        """Returns the towers' vectors of the needed views, and the wanted fused vectors."""
        vectors: dict[View, Tensor] = self._encode_views(
            batch, rows, needed, self._vectors, rows_of
        )
        zeros = torch.zeros(len(batch.text_row), self.settings.dim, device=batch.text_row.device)
        # A query without a picture has its text's vector.
        has_query_pictures = len(batch.image) > batch.product_pictures
        fuse_query = self._fuse_query if has_query_pictures else _text_alone
        for side, fuse in ((QUERY, fuse_query), (PRODUCT, self.fusion)):
            if side.fused in wanted:
                vectors[side.fused] = fuse(
                    vectors.get(side.text, zeros),
                    self.image_log_weight.exp() * vectors.get(side.image, zeros),
                    rows[side.text] >= 0,
                    rows[side.image] >= 0,
                )
        return vectors

    def _fuse_query(
        self, text: Tensor, image: Tensor, has_text: Tensor, has_image: Tensor
    ) -> Tensor:
        """Returns the fused vector in rows with a picture, and the text's in the others."""
        fused = self.fusion(text, image, has_text, has_image)
        return torch.where(has_image.unsqueeze(1), fused, text)

    def _fuse_tokens(
        self, batch: Batch, rows: Mapping[View, Tensor], wanted: set[View], needed: set[View]
    ) -> dict[View, Tensor]:
        """Returns the three vectors that a fusion of tokens makes of each side with a wanted view.

        Rows of the same text and picture are encoded once: a product stands in a row per query.
        """
        assert isinstance(self.fusion, UniecsFusion)
        distinct: dict[View, Tensor] = {}
        pair_of_row: dict[Side, Tensor] = {}
        for side in (side for side in (QUERY, PRODUCT) if not wanted.isdisjoint(side)):
            pairs = torch.stack([rows[side.text], rows[side.image]])
            pairs, pair_of_row[side] = pairs.unique(dim=1, return_inverse=True)
            distinct |= zip(side, pairs, strict=False)
        states = self._encode_views(batch, distinct, needed, self._states, spread_tokens)
        encoder = self.fusion.encoder
        vectors: dict[View, Tensor] = {}
        for side, pair in pair_of_row.items():
            no_mask = torch.zeros_like(distinct[side.text], dtype=torch.bool).unsqueeze(1)
            no_tokens = no_mask.new_zeros(*no_mask.shape, self.settings.dim, dtype=torch.float)
            text, image = (states.get(v, (no_tokens, no_mask)) for v in (side.text, side.image))
            of_pairs = in_chunks(encoder, encoder, (*text, *image), self.chunk_size)
            vectors |= {view: rows[pair] for view, rows in zip(side, of_pairs, strict=True)}
        return vectors


def _text_tower(encoder: nn.Module, settings: ModelSettings) -> TextTower:
    return TextTower(encoder, settings.pooling, head=build_head(settings.text_head))


def _width(tower: TextTower | ImageTower, tokens: bool, setting: str, *inputs: Tensor) -> int:
    """Returns the width of a tower's vector or tokens; refuses inputs that it cannot take."""
    try:
        return (tower.tokens(*inputs)[0] if tokens else tower(*inputs)).shape[-1]
    except ConfigError:
        raise
    except (AssertionError, IndexError, RuntimeError, ValueError) as error:
        raise ConfigError(f"{setting}: not for {tower.settings.name_or_path}: {error}") from error


def _pictures(batch: Batch, needed: set[View]) -> tuple[Tensor, int]:
    """Returns the pictures of the needed views, and the first one's index in the batch."""
    first_query = batch.product_pictures
    first = 0 if "image" in needed else first_query
    end = len(batch.image) if "trigger_image" in needed else first_query
    return batch.image[first:end], first


def _text_alone(text: Tensor, *_: Tensor) -> Tensor:
    return text
