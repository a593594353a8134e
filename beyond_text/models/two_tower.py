"""Two towers: the query's text encoder, and the product's text and image encoders with fusion.

All views live in one space of `dim`. A projection whose encoder already has that width starts as
the identity, so an untouched CLIP scores as CLIP does. Towers that no view needs are not run.

A query may hold a picture, as a product does: either side is a text, a picture and what fuses them.
A fusion of vectors fuses those of the towers. A fusion of tokens (UniECS) takes the towers' token
sequences, projected, and makes all three vectors of a side itself, by one encoder for both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from beyond_text.config.settings import ConfigError
from beyond_text.config.views import PAIRS, PRODUCT, QUERY, Side, View
from beyond_text.models.chunks import in_chunks
from beyond_text.models.encoders import load_encoder
from beyond_text.models.fusion import FUSIONS, UniecsFusion
from beyond_text.models.settings import ModelSettings
from beyond_text.models.temperature import Temperature
from beyond_text.models.towers import ImageTower, TextTower, Tower
from beyond_text.shards.batch import Batch, Embeddings, Tokens, rows_of


def _projection(width: int, dim: int) -> nn.Linear:
    layer = nn.Linear(width, dim, bias=False)
    if width == dim:
        nn.init.eye_(layer.weight)
    else:
        nn.init.orthogonal_(layer.weight)
    return layer


def _width(tower: TextTower | ImageTower, tokens: bool, setting: str, *inputs: Tensor) -> int:
    """Size of a tower's pooled vector, or of its tokens; refuses inputs the encoder cannot take."""
    try:
        return (tower.tokens(*inputs)[0] if tokens else tower(*inputs)).shape[-1]
    except (AssertionError, IndexError, RuntimeError, ValueError) as error:
        raise ConfigError(f"{setting}: not for {tower.settings.name_or_path}: {error}") from error


def _spread(
    tokens: tuple[Float[Tensor, "distinct length dim"], Bool[Tensor, "distinct length"]],
    row: Int[Tensor, " rows"],
) -> tuple[Float[Tensor, "rows places dim"], Bool[Tensor, "rows places"]]:
    """Each row's token sequence and which tokens are there: none in a row without the view."""
    states, mask = tokens
    if len(states) == 0:
        return states.new_zeros(len(row), 1, states.shape[2]), mask.new_zeros(len(row), 1)
    place = row.clamp(min=0)
    return states[place], mask[place] & (row >= 0).unsqueeze(1)


def _pictures(batch: Batch, needs: set[View]) -> tuple[Tensor, int]:
    """The pictures that the needed views show, and the place of the first of them in the batch."""
    of_queries = batch.query_image_row[batch.query_image_row >= 0]
    # Products' pictures stand first.
    border = int(of_queries.min()) if len(of_queries) else len(batch.image)
    first = 0 if "image" in needs else border
    last = len(batch.image) if "trigger_image" in needs else border
    return batch.image[first:last], first


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
        # Rows whose activations are held at a time while training; 0 holds those of all.
        self.chunk_size = 0
        self.text_tower = TextTower(text, settings.pooling)
        self.image_tower = ImageTower(image, tuple(settings.mean), tuple(settings.std))
        self.own_query_tower = TextTower(query, settings.pooling) if query is not None else None
        text_width, image_width = self._widths()
        fusion = FUSIONS[settings.fusion]
        self.query_projection = _projection(text_width, settings.dim)
        # One encoder reads the tokens of both sides, so one map leads into it.
        self.text_projection = (
            self.query_projection if fusion.tokens else _projection(text_width, settings.dim)
        )
        self.image_projection = _projection(image_width, settings.dim)
        self.fusion = fusion(settings.dim, settings.fusion_rank)
        self.temperatures = nn.ModuleDict(
            {name: Temperature(settings.temperature, settings.temperature_min) for name in PAIRS}
        )

    @torch.no_grad()
    def _widths(self) -> tuple[int, int]:
        """Sizes of what is projected, by asking the towers with the largest inputs."""
        self.eval()
        sequences = FUSIONS[self.settings.fusion].tokens
        length, size = self.settings.max_length, self.settings.image_size
        tokens = torch.ones(1, length, dtype=torch.long)
        picture = torch.zeros(1, 3, size, size, dtype=torch.uint8)
        widths = (
            _width(self.text_tower, sequences, f"text_encoder.max_length={length}", tokens, tokens),
            _width(self.image_tower, sequences, f"image_encoder.image_size={size}", picture),
        )
        self.train()
        return widths

    @property
    def towers(self) -> dict[str, TextTower | ImageTower]:
        """Each tower once, by its name."""
        towers: dict[str, TextTower | ImageTower] = {
            "text_tower": self.text_tower,
            "image_tower": self.image_tower,
        }
        if self.own_query_tower is not None:
            towers["own_query_tower"] = self.own_query_tower
        return towers

    @property
    def widths(self) -> dict[str, int]:
        """Numbers in a pooled vector of each tower, by its name."""
        projections = {
            "text_tower": self.text_projection,
            "image_tower": self.image_projection,
            "own_query_tower": self.query_projection,
        }
        return {name: projections[name].in_features for name in self.towers}

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
        return self._vectors(self.text_tower, self.text_projection, tokens)

    def encode_query(self, tokens: Tokens) -> Float[Tensor, "texts dim"]:
        """Unit vectors of query texts."""
        return self._vectors(self.query_tower, self.query_projection, tokens)

    def encode_image(self, image: Tensor) -> Float[Tensor, "pictures dim"]:
        """Unit vectors of uint8 pictures [pictures, 3, size, size]."""
        return self._vectors(self.image_tower, self.image_projection, (image,))

    def _vectors(self, tower: Tower, projection: nn.Linear, inputs: tuple[Tensor, ...]) -> Tensor:
        """Unit vectors of a tower's inputs [inputs, dim]."""
        if len(inputs[0]) == 0:
            return torch.zeros(0, self.settings.dim, device=inputs[0].device)

        def vectors(*rows: Tensor) -> Tensor:
            return F.normalize(projection(tower.pooled(*rows)).float(), dim=1)

        return in_chunks(vectors, tower, inputs, self.chunk_size)

    def _states(
        self, tower: TextTower | ImageTower, projection: nn.Linear, inputs: tuple[Tensor, ...]
    ) -> tuple[Float[Tensor, "inputs length dim"], Bool[Tensor, "inputs length"]]:
        """Projected unit tokens of a tower's inputs, and which of them are there."""
        if len(inputs[0]) == 0:
            nothing = torch.zeros(0, 1, self.settings.dim, device=inputs[0].device)
            return nothing, nothing[:, :, 0].bool()

        def states(*rows: Tensor) -> tuple[Tensor, Tensor]:
            tokens, mask = tower.tokens(*rows)
            return projection(F.normalize(tokens.float(), dim=2)).float(), mask

        return in_chunks(states, tower, inputs, self.chunk_size)

    def embed(self, batch: Batch, views: Collection[View]) -> Embeddings:
        """Unit vectors [rows, dim] of the views asked for; only the towers these need are run.

        A query with a picture is fused as a product is. One without is its text's vector, but a
        fusion of tokens makes it, too, of the tokens there are.
        """
        wants: set[View] = set(views)
        rows = batch.rows
        has = {view: row >= 0 for view, row in rows.items()}
        needs = self._needs(wants, has)
        if self.fusion.tokens:
            vectors = self._read(batch, rows, wants, needs)
        else:
            vectors = self._fuse(batch, rows, wants, needs)
        present = has | {side.fused: has[side.text] | has[side.image] for side in (QUERY, PRODUCT)}
        return Embeddings({v: vectors[v] for v in wants}, {v: present[v] for v in wants})

    def _needs(self, wants: set[View], has: Mapping[View, Tensor]) -> set[View]:
        """The views of one modality that are wanted, or that a wanted fused view is made of."""
        needs = wants - {QUERY.fused, PRODUCT.fused}
        for side in (QUERY, PRODUCT):
            for view, modality, other in (
                (side.text, "text", side.image),
                (side.image, "image", side.text),
            ):
                # A control that uses one modality needs the other just where its own is missing.
                if side.fused in wants and (
                    modality in self.fusion.uses or bool((has[view] & ~has[other]).any())
                ):
                    needs.add(view)
        return needs

    def _rows(
        self,
        batch: Batch,
        rows: Mapping[View, Tensor],
        needs: set[View],
        read: Callable[..., Any],
        spread: Callable[..., Any],
    ) -> dict[View, Any]:
        """What `read` makes of the needed texts and pictures, each once, spread over the rows."""
        found: dict[View, Any] = {}
        if "trigger_text" in needs:
            queries = read(self.query_tower, self.query_projection, batch.query)
            found["trigger_text"] = spread(queries, rows["trigger_text"])
        if "text" in needs:
            texts = read(self.text_tower, self.text_projection, batch.text)
            found["text"] = spread(texts, rows["text"])
        shown, first = _pictures(batch, needs)
        pictures = read(self.image_tower, self.image_projection, (shown,))
        if "image" in needs:
            found["image"] = spread(pictures, rows["image"] - first)
        if "trigger_image" in needs:
            found["trigger_image"] = spread(pictures, rows["trigger_image"] - first)
        return found

    def _fuse(
        self, batch: Batch, rows: Mapping[View, Tensor], wants: set[View], needs: set[View]
    ) -> dict[View, Tensor]:
        """The towers' vectors of the needed views, and what the fusion makes of them."""
        vectors: dict[View, Tensor] = self._rows(batch, rows, needs, self._vectors, rows_of)
        nothing = torch.zeros(len(batch.text_row), self.settings.dim, device=batch.text_row.device)
        for side, fuse in ((QUERY, self._query), (PRODUCT, self.fusion)):
            if side.fused in wants:
                vectors[side.fused] = fuse(
                    vectors.get(side.text, nothing),
                    vectors.get(side.image, nothing),
                    rows[side.text] >= 0,
                    rows[side.image] >= 0,
                )
        return vectors

    def _query(self, text: Tensor, image: Tensor, has_text: Tensor, has_image: Tensor) -> Tensor:
        """The text's vector, but the fused one in rows with a picture."""
        if not has_image.any():
            return text
        fused = self.fusion(text, image, has_text, has_image)
        return torch.where(has_image.unsqueeze(1), fused, text)

    def _read(
        self, batch: Batch, rows: Mapping[View, Tensor], wants: set[View], needs: set[View]
    ) -> dict[View, Tensor]:
        """The three vectors that the fusion of tokens makes of each side with a wanted view.

        Rows of one text and one picture, such as a product's that several queries ask for, are
        read once.
        """
        assert isinstance(self.fusion, UniecsFusion)
        distinct: dict[View, Tensor] = {}
        places: dict[Side, Tensor] = {}
        for side in (side for side in (QUERY, PRODUCT) if not wants.isdisjoint(side)):
            pairs = torch.stack([rows[side.text], rows[side.image]])
            pairs, places[side] = pairs.unique(dim=1, return_inverse=True)
            distinct |= zip(side, pairs, strict=False)
        states = self._rows(batch, distinct, needs, self._states, _spread)
        encoder = self.fusion.encoder
        vectors: dict[View, Tensor] = {}
        for side, place in places.items():
            absent = torch.zeros_like(distinct[side.text], dtype=torch.bool).unsqueeze(1)
            nothing = absent.new_zeros(*absent.shape, self.settings.dim, dtype=torch.float)
            text, image = (states.get(v, (nothing, absent)) for v in (side.text, side.image))
            read = in_chunks(encoder, encoder, (*text, *image), self.chunk_size)
            vectors |= {view: found[place] for view, found in zip(side, read, strict=True)}
        return vectors


def build_model(
    settings: ModelSettings, text: str, image: str, pretrained: bool, drop_path: float = 0.0
) -> TwoTower:
    """The model around encoders from hub names or folders, with their weights if `pretrained`.

    `drop_path` is the image encoder's while it trains.
    """
    query = None if settings.share_text_encoder else load_encoder(text, pretrained)
    encoders = load_encoder(text, pretrained), load_encoder(image, pretrained, drop_path)
    return TwoTower(settings, *encoders, query)
