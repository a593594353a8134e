"""The parts of a model as graphs in ONNX: texts and pictures in, unit vectors out.

Pooling, projection, fusion, masks of missing modalities and normalisation stand inside. Each
distinct text and picture is an input once; `text_row` and `image_row` name that of each query or
product, and -1 is a missing one.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from beyond_text.encoding.export_model import INT8, OUTPUT, PRODUCT, QUERY, QUERY_PICTURE
from beyond_text.models.fusion import UniecsFusion
from beyond_text.models.two_tower import TwoTower

# Sizes of the example inputs: all differ, so that no two axes are taken for one, and none is 1,
# which would be taken for a constant.
TEXTS, LENGTH, PICTURES, ROWS = 3, 5, 2, 4
TEXT_AXES = {"input_ids": ("texts", "length"), "attention_mask": ("texts", "length")}
AXES = {**TEXT_AXES, "text_row": ("rows",), "pixels": ("pictures",), "image_row": ("rows",)}


class QueryGraph(nn.Module):
    """Encodes queries of words alone."""

    def __init__(self, model: TwoTower) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Int[Tensor, "texts length"], attention_mask: Int[Tensor, "texts length"]
    ) -> Float[Tensor, "texts dim"]:
        """Returns unit vectors, a row for each text."""
        model = self.model
        tokens = input_ids, attention_mask
        if not isinstance(model.fusion, UniecsFusion):
            return _unit(model.query_tower(*tokens), model.query_projection)
        states, mask = _states(model.query_tower.tokens(*tokens), model.query_projection)
        # A picture that is not there is one masked token.
        nothing = states[:, :1] * 0.0, mask[:, :1] & False
        return model.fusion.encoder(states, mask, *nothing).product


class FusedGraph(nn.Module):
    """Encodes products, or queries that may hold a picture; a query without has its text's."""

    def __init__(self, model: TwoTower, of_queries: bool) -> None:
        super().__init__()
        self.model = model
        self.of_queries = of_queries

    def forward(
        self,
        input_ids: Int[Tensor, "texts length"],
        attention_mask: Int[Tensor, "texts length"],
        text_row: Int[Tensor, " rows"],
        pixels: UInt8[Tensor, "pictures 3 size size"],
        image_row: Int[Tensor, " rows"],
    ) -> Float[Tensor, "rows dim"]:
        """Returns unit vectors, one for each row."""
        model = self.model
        tower = model.query_tower if self.of_queries else model.text_tower
        mapped = model.query_projection if self.of_queries else model.text_projection
        tokens = input_ids, attention_mask
        if isinstance(model.fusion, UniecsFusion):
            text = _spread(_states(tower.tokens(*tokens), mapped), text_row)
            image = _spread(
                _states(model.image_tower.tokens(pixels), model.image_projection), image_row
            )
            return model.fusion.encoder(*text, *image).product
        has_text, has_image = text_row >= 0, image_row >= 0
        texts = _unit(tower(*tokens), mapped)[text_row.clamp(min=0)]
        pictures, *patches = model.image_tower.run(pixels)
        images = _unit(pictures, model.image_projection)[image_row.clamp(min=0)]
        images = model.image_log_weight.exp() * images
        seen = _spread(_unit_tokens(*patches), image_row) if patches else ()
        fused = model.fusion(texts, images, has_text, has_image, *seen)
        return torch.where(has_image.unsqueeze(1), fused, texts) if self.of_queries else fused


def _unit(
    pooled: Float[Tensor, "inputs features"], mapped: nn.Linear
) -> Float[Tensor, "inputs dim"]:
    return F.normalize(mapped(pooled).float(), dim=1)


States = tuple[Float[Tensor, "inputs length dim"], Bool[Tensor, "inputs length"]]


def _states(tokens: States, mapped: nn.Linear) -> States:
    states, mask = _unit_tokens(*tokens)
    return mapped(states).float(), mask


def _unit_tokens(
    states: Float[Tensor, "inputs length features"], mask: Bool[Tensor, "inputs length"]
) -> States:
    return F.normalize(states.float(), dim=2), mask


def _spread(tokens: States, row: Int[Tensor, " rows"]) -> States:
    states, mask = tokens
    index = row.clamp(min=0)
    return states[index], mask[index] & (row >= 0).unsqueeze(1)


def exportable(model: TwoTower) -> TwoTower:
    """Returns a copy in float32 on the CPU without what makes training fast there."""
    model = copy.deepcopy(model).float().cpu().eval()
    for tower in model.towers.values():
        tower.as_it_is = True
    if isinstance(model.fusion, UniecsFusion):
        model.fusion.encoder.crosses_all_rows = True
    return model.requires_grad_(False)


def write_graphs(model: TwoTower, folder: Path) -> None:
    """Writes the graphs of a model into an export's folder.

    Raises:
        ValueError: PyTorch cannot export one of its encoders.
    """
    model = exportable(model)
    length, size = model.settings.max_length, model.settings.image_size
    tokens = torch.ones(2, TEXTS, min(LENGTH, length), dtype=torch.long).unbind()
    pixels = torch.zeros(PICTURES, 3, size, size, dtype=torch.uint8)
    text_row, image_row = torch.tensor([0, 1, 2, -1]), torch.tensor([0, -1, 1, 1])
    fused = (*tokens, text_row, pixels, image_row)
    _write(QueryGraph(model), tokens, TEXT_AXES, folder / QUERY)
    _write(FusedGraph(model, of_queries=True), fused, AXES, folder / QUERY_PICTURE)
    _write(FusedGraph(model, of_queries=False), fused, AXES, folder / PRODUCT)


def quantize(folder: Path) -> None:
    """Writes the graph of text queries with weights of 8 bits, a scale for each channel."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.getLogger().addFilter(_no_advice)
    try:
        quantize_dynamic(
            folder / QUERY, folder / INT8, weight_type=QuantType.QInt8, per_channel=True
        )
    finally:
        logging.getLogger().removeFilter(_no_advice)


def _no_advice(record: logging.LogRecord) -> bool:
    """Hides the library's advice to optimise the graph first, which PyTorch's export has done."""
    return "pre-processing before quantization" not in record.getMessage()


def _write(
    graph: nn.Module, example: tuple[Tensor, ...], axes: Mapping[str, tuple[str, ...]], file: Path
) -> None:
    """Writes one graph, whose inputs are `axes`, with the names of their axes of any size."""
    shapes = {
        name: {number: torch.export.Dim.DYNAMIC for number, _ in enumerate(names)}
        for name, names in axes.items()
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        graph.eval(),
        example,
        file,
        input_names=list(axes),
        output_names=[OUTPUT],
        dynamic_shapes=shapes,
        dynamo=True,
        external_data=False,
        verbose=False,
    )
