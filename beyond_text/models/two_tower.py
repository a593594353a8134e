"""Joins the query's text encoder, the product's text and image encoders, and their fusion.

All views are vectors of one space of `dim`. A projection whose encoder already has that width
starts as the identity, so an untouched CLIP scores as CLIP does. Towers that no view needs are not
run.

A query may hold a picture, as a product does: either side has a text, a picture and a fused view.
A fusion of vectors fuses those of the towers; it may look at the picture's patches as well. A
fusion of tokens (UniECS) takes the towers' projected token sequences, and makes all three vectors
of a side itself, by one encoder for both sides.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from beyond_text.config.views import PAIRS, PRODUCT, QUERY, Side, View
from beyond_text.models.chunks import in_chunks
from beyond_text.models.encoded import Encoded, Pairs, pairs_of
from beyond_text.models.encoders import load_encoder
from beyond_text.models.fusing import Fusion
from beyond_text.models.fusion import FUSIONS, UniecsFusion, build_fusion
from beyond_text.models.image_tower import ImageTower
from beyond_text.models.layers import projection
from beyond_text.models.layout import Layout
from beyond_text.models.sentence import build_head, load_head, read_sentence_settings
from beyond_text.models.settings import ModelSettings
from beyond_text.models.temperature import Temperature
from beyond_text.models.towers import TextTower, Tower
from beyond_text.shards.batch import Batch, Embeddings, Tokens


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
        of_text, of_image = self._set_layouts(FUSIONS[settings.fusion])
        self.query_projection = projection(of_text.projected, settings.dim)
        # A fusion of tokens encodes both sides by one encoder, so they share a projection.
        self.text_projection = (
            self.query_projection
            if FUSIONS[settings.fusion].tokens
            else projection(of_text.projected, settings.dim)
        )
        self.image_projection = projection(of_image.projected, settings.dim)
        # How much a picture counts in a fusion of vectors, beside a text's 1: its logarithm.
        self.image_log_weight = nn.Parameter(torch.zeros(()))
        name, rank = settings.fusion, settings.fusion_rank
        self.fusion = build_fusion(name, settings.dim, rank, of_image.features)
        self.temperatures = nn.ModuleDict(
            {name: Temperature(settings.temperature, settings.temperature_min) for name in PAIRS}
        )

    @torch.no_grad()
    def _set_layouts(self, fusion: type[Fusion]) -> tuple[Layout, Layout]:
        """Finds out what the towers give for the largest inputs; returns texts' and pictures'."""
        self.eval()
        length, size = self.settings.max_length, self.settings.image_size
        tokens = torch.ones(1, length, dtype=torch.long)
        picture = torch.zeros(1, 3, size, size, dtype=torch.uint8)
        for tower in self.towers.values():
            tower.gives = "tokens" if fusion.tokens else "vector"
        if fusion.patches:
            self.image_tower.gives = "both"
        text = self.text_tower.measured(f"text_encoder.max_length={length}", tokens, tokens)
        image = self.image_tower.measured(f"image_encoder.image_size={size}", picture)
        for tower in self.towers.values():
            tower.layout = image if tower is self.image_tower else text
        self.train()
        return text, image

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
        return self._unit(self.text_tower, self.text_projection, tokens)

    def encode_query(self, tokens: Tokens) -> Float[Tensor, "texts dim"]:
        """Returns unit vectors of query texts."""
        return self._unit(self.query_tower, self.query_projection, tokens)

    def encode_image(self, image: Tensor) -> Float[Tensor, "pictures dim"]:
        """Returns unit vectors of uint8 pictures [pictures, 3, size, size]."""
        return self._unit(self.image_tower, self.image_projection, (image,))

    def image_features(self, image: Tensor) -> Float[Tensor, "pictures features"]:
        """Returns what the image projection maps, of uint8 pictures [pictures, 3, size, size].

        A fusion of tokens has each token projected; here their mean stands for them.
        """
        first = self.image_tower.read(image)[0]
        return F.normalize(first.float(), dim=2).mean(dim=1) if self.fusion.tokens else first

    def _unit(self, tower: Tower, projection: nn.Linear, inputs: tuple[Tensor, ...]) -> Tensor:
        """Returns unit vectors of a tower's inputs [inputs, dim]."""
        if len(inputs[0]) == 0:
            return torch.zeros(0, self.settings.dim, device=inputs[0].device)

        def vectors(*rows: Tensor) -> Tensor:
            # Of a tower that gives tokens no vectors are kept.
            found = tower(*rows) if tower.gives == "tokens" else tower.read(*rows)[0]
            return F.normalize(projection(found).float(), dim=1)

        return in_chunks(vectors, tower, inputs, self.chunk_size)

    def _read(
        self, tower: Tower, projection: nn.Linear, inputs: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """Returns what the model reads of a tower's inputs, projected, in unit length, in float32.

        That is vectors [inputs, dim]; or tokens [inputs, length, dim] and which of them are real;
        or vectors, patches [inputs, patches, features] as they are, and which of them are real.
        """
        if len(inputs[0]) == 0:
            return self._nothing(tower, inputs[0].device)

        def read(*rows: Tensor) -> tuple[Tensor, ...]:
            first, *further = tower.read(*rows)
            if tower.gives == "tokens":
                return projection(F.normalize(first.float(), dim=2)).float(), *further
            vectors = F.normalize(projection(first).float(), dim=1)
            if tower.gives == "vector":
                return (vectors,)
            return vectors, F.normalize(further[0].float(), dim=2), further[1]

        return in_chunks(read, tower, inputs, self.chunk_size)

    def _nothing(self, tower: Tower, device: torch.device) -> tuple[Tensor, ...]:
        """Returns what `_read` does without any input."""
        vectors = torch.zeros(0, self.settings.dim, device=device)
        if tower.gives == "vector":
            return (vectors,)
        if tower.gives == "tokens":
            return vectors.unsqueeze(1), vectors.new_zeros(0, 1, dtype=torch.bool)
        patches = vectors.new_zeros(0, *tower.layout[1:])
        return vectors, patches, patches[:, :, 0].bool()

    def embed(self, batch: Batch, views: Collection[View]) -> Embeddings:
        """Returns unit vectors [rows, dim] of the wanted views; runs only the towers they need.

        A query with a picture is fused as a product is. A query without one has its text's vector;
        a fusion of tokens makes that one too, from the text's tokens.
        """
        wanted: set[View] = set(views)
        rows = batch.rows
        has = {view: row >= 0 for view, row in rows.items()}
        encoded = self._encode_views(batch, self._needed_views(wanted, has))
        fuse = self._fuse_tokens if self.fusion.tokens else self._fuse_vectors
        vectors = fuse(batch, encoded, wanted)
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

    def _encode_views(self, batch: Batch, needed: set[View]) -> dict[View, Encoded]:
        """Encodes the needed texts and pictures, each once; of the other views, no row has any."""
        rows = batch.rows
        encoded: dict[View, Encoded] = {}
        texts: tuple[tuple[View, TextTower, nn.Linear, tuple[Tensor, ...]], ...] = (
            ("trigger_text", self.query_tower, self.query_projection, batch.queries_with_lengths),
            ("text", self.text_tower, self.text_projection, batch.texts_with_lengths),
        )
        for view, tower, mapped, tokens in texts:
            inputs = tokens if view in needed else tuple(part[:0] for part in tokens)
            encoded[view] = Encoded(self._read(tower, mapped, inputs), rows[view])
        images, first = _pictures(batch, needed)
        pictures = self._read(self.image_tower, self.image_projection, (images,))
        for side in (PRODUCT, QUERY):
            encoded[side.image] = Encoded(pictures, (rows[side.image] - first).clamp(min=-1))
        return {
            view: each if view in needed else each._replace(row=torch.full_like(each.row, -1))
            for view, each in encoded.items()
        }

    def _fuse_vectors(
        self, batch: Batch, encoded: Mapping[View, Encoded], wanted: set[View]
    ) -> dict[View, Tensor]:
        """Returns the towers' vectors of all views, and the wanted fused vectors."""
        vectors = {view: each.vectors(each.row) for view, each in encoded.items()}
        # A query without a picture has its text's vector.
        if QUERY.fused in wanted:
            vectors[QUERY.fused] = vectors[QUERY.text]
        has_pictures = {QUERY: len(batch.image) > batch.product_pictures, PRODUCT: True}
        sides = [side for side, has in has_pictures.items() if has and side.fused in wanted]
        pairs = self._pairs(sides, encoded) if self.fusion.patches else {}
        for side in sides:
            fused = self._fuse(side, batch, encoded, pairs.get(side))
            if side is QUERY:
                has_image = (batch.rows[QUERY.image] >= 0).unsqueeze(1)
                fused = torch.where(has_image, fused, vectors[QUERY.text])
            vectors[side.fused] = fused
        return vectors

    def _pairs(self, sides: Sequence[Side], encoded: Mapping[View, Encoded]) -> dict[Side, Pairs]:
        """Returns the distinct pairs of text and picture of each side."""
        found = pairs_of([(encoded[side.text], encoded[side.image]) for side in sides])
        return dict(zip(sides, found, strict=True))

    def _fuse(
        self, side: Side, batch: Batch, encoded: Mapping[View, Encoded], pairs: Pairs | None
    ) -> Tensor:
        """Returns the fused vectors of a side's rows, of which a fusion of patches needs pairs."""
        text, image = encoded[side.text], encoded[side.image]
        weight = self.image_log_weight.exp()
        if pairs is None:
            has = (batch.rows[view] >= 0 for view in (side.text, side.image))
            return self.fusion(text.vectors(text.row), weight * image.vectors(image.row), *has)
        rows = (
            text.vectors(pairs.text),
            weight * image.vectors(pairs.image),
            pairs.text >= 0,
            pairs.image >= 0,
            *image.tokens(pairs.image),
        )
        return in_chunks(self.fusion, self.fusion, rows, self.chunk_size)[pairs.of_row]

    def _fuse_tokens(
        self, batch: Batch, encoded: Mapping[View, Encoded], wanted: set[View]
    ) -> dict[View, Tensor]:
        """Returns the vectors that a fusion of tokens makes of each side with a wanted view."""
        assert isinstance(self.fusion, UniecsFusion)
        encoder = self.fusion.encoder
        vectors: dict[View, Tensor] = {}
        sides = [side for side in (QUERY, PRODUCT) if not wanted.isdisjoint(side)]
        for side, pairs in self._pairs(sides, encoded).items():
            text, image = encoded[side.text], encoded[side.image]
            rows = *text.tokens(pairs.text), *image.tokens(pairs.image), pairs.has_both
            of_pairs = in_chunks(encoder, encoder, rows, self.chunk_size)
            vectors |= {v: rows[pairs.of_row] for v, rows in zip(side, of_pairs, strict=True)}
        return vectors


def _text_tower(encoder: nn.Module, settings: ModelSettings) -> TextTower:
    return TextTower(encoder, settings.pooling, head=build_head(settings.text_head))


def _pictures(batch: Batch, needed: set[View]) -> tuple[Tensor, int]:
    """Returns the pictures of the needed views, and the first one's index in the batch."""
    first_query = batch.product_pictures
    first = 0 if "image" in needed else first_query
    end = len(batch.image) if "trigger_image" in needed else first_query
    return batch.image[first:end], first
