"""Writes a run's model as a folder that other programs read, completely or not at all.

query/               sentence-transformers: the encoder of queries of words
onnx/                graphs of queries and products for onnxruntime
preprocessing.json   how texts become tokens and pictures pixels
tokenizer.json       for the library `tokenizers`
example.py           the graphs in use, without torch and without this package
README.md            a model card
vectors.parquet      where products were given
"""

from __future__ import annotations

import shutil
from pathlib import Path

from beyond_text.config.names import check_finished
from beyond_text.config.settings import ConfigError
from beyond_text.encoding.export_model import GRAPHS, ExportModel
from beyond_text.encoding.preprocessing import read_preprocessing
from beyond_text.encoding.run_model import RunModel, digest_of_run
from beyond_text.exporting.card import Facts, write_card
from beyond_text.exporting.check import Quality, largest_difference, quality_of_int8
from beyond_text.exporting.graphs import quantize, write_graphs
from beyond_text.exporting.preprocessing import write_preprocessing_of
from beyond_text.exporting.sentence import write_query_folder
from beyond_text.exporting.vectors import write_vectors
from beyond_text.files import atomic_folder
from beyond_text.shards.store import Folder, Store
from beyond_text.terminal import one_line

EXAMPLE = Path(__file__).with_name("example.py")


def is_export(folder: Path) -> bool:
    """Says whether a folder is one that an export wrote."""
    try:
        return (folder / GRAPHS).is_dir() and bool(read_preprocessing(folder))
    except ConfigError:
        return False


def export_run(run: Path, out: Path, products: Folder | None = None) -> Facts:
    """Exports a finished run; returns what the card says of the export.

    Raises:
        ConfigError: no finished run; a tokenizer that is not one of `tokenizers`.
        FileExistsError: `out` is something else than an export, or than empty.
        TableError, ShardError: no such products.
        ValueError: the graphs do not give torch's vectors.
    """
    check_finished(run)
    whole = RunModel(run)
    with atomic_folder(out, is_export) as folder:
        model, tokenizer = whole.encoder.model, whole.encoder.tokenizer
        # First, since it is what a user may have named wrongly.
        count = None if products is None else write_vectors(whole, products, folder)
        write_preprocessing_of(model, tokenizer, digest_of_run(run), folder)
        no_query_folder = write_query_folder(model, tokenizer, folder)
        write_graphs(model, folder)
        quantize(folder)
        shutil.copyfile(EXAMPLE, folder / EXAMPLE.name)
        difference = largest_difference(whole, ExportModel(folder))
        facts = Facts(difference, _quality(whole, folder), no_query_folder, count)
        write_card(run, model, facts, folder)
    return facts


def _quality(run: RunModel, folder: Path) -> Quality | str:
    """Measures int8 on the split that the run was measured on; says why where that cannot be."""
    from beyond_text.config.load import config_of

    try:
        if (config := config_of(run.run)) is None:
            return "the run has no config.yaml"
        data = config.data
        if not data.dev:
            return "the run was measured on no products"
        return quality_of_int8(run, folder, Store.of(data.dev, data), data.dev_split)
    except (ValueError, OSError) as error:
        return one_line(error)
