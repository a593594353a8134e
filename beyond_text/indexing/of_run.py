"""Opens the index of a run over a folder of products, which is made or brought up to date first."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from beyond_text.config.names import IndexKind
from beyond_text.files import user_cache
from beyond_text.indexing.facts import IndexFormatError
from beyond_text.indexing.index import Index
from beyond_text.indexing.models import ModelFacts, model_facts
from beyond_text.indexing.source import describe_source
from beyond_text.shards.store import Folder, Store
from beyond_text.terminal import say


def index_of_run(
    run: Path, folder: Folder, split: str | None = None, kind: IndexKind = "exact"
) -> Index:
    """Opens RUN/index/NAME; it is in the user's cache where RUN is read-only.

    Args:
        run: a finished run.
        folder: shards, also at a URL, or tables, with queries or without.
        split: whose products are searched; None for every split's.
        kind: of the search over their vectors.

    Raises:
        ConfigError: no finished model in `run`.
        TableError, ShardError: no such products or split.
        RejectError: too many rows of the tables cannot be used.
    """
    model = model_facts(run)
    home = index_folder(run, folder, split)
    source = describe_source(folder, home, split)
    try:
        index = Index.open(home, kind)
        made_of = index.facts.model, index.facts.source.digest, index.facts.source.split
        if made_of == (model.digest, source.digest, source.split):
            return index
    except IndexFormatError:
        # It is made again.
        pass
    return _make(model, folder, split, kind, home)


def index_folder(run: Path, folder: Folder, split: str | None) -> Path:
    """Returns where a run's index of a folder of products lies."""
    where = folder.name if isinstance(folder, Store) else folder.resolve()
    place = f"{where}\n{split or ''}"
    name = f"{split or 'all'}-{hashlib.sha256(place.encode()).hexdigest()[:12]}"
    if os.access(run, os.W_OK):
        return run / "index" / name
    key = hashlib.sha256(str(run.resolve()).encode()).hexdigest()[:16]
    return user_cache() / key / name


def _make(
    model: ModelFacts, folder: Folder, split: str | None, kind: IndexKind, home: Path
) -> Index:
    """Builds the index in `home`, or where that cannot be, for this search."""
    from beyond_text.indexing.build import Options, build_index

    # The run itself encodes its queries.
    # Pictures at a URL are shown from copies alone.
    copy_pictures = isinstance(folder, Store)
    options = Options(split=split, keep_model=False, copy_pictures=copy_pictures)
    try:
        build_index(folder, home, model, options)
    except BlockingIOError:
        raise
    except OSError as error:
        say(f"{home}: the index is not kept: {error.strerror}")
        home = Path(tempfile.mkdtemp(prefix="beyond-text-"))
        build_index(folder, home, model, options)
    return Index.open(home, kind)
