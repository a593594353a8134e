"""Computes the outputs of frozen towers once for all of a run's data, and keeps them on disk.

A folder holds the outputs of one tower for one split, in blocks of inputs: vectors, or where the
fusion reads them tokens. Its name is a digest of all that decides them, so every later run of the
same towers and shards finds it. Blocks are written by all processes of a run, and those that are
whole stay when it is stopped. Pictures that are kept are not decoded again. A text that is not kept
is encoded when it is needed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from torch.utils.data import Dataset

from beyond_text.config.settings import Config, ConfigError
from beyond_text.models.precision import precision_of
from beyond_text.models.two_tower import TwoTower
from beyond_text.retrieval.catalogue import ShardProducts
from beyond_text.shards.batch import Sample
from beyond_text.shards.split import Split
from beyond_text.terminal import say
from beyond_text.training.cache_room import check_room
from beyond_text.training.cached_embeddings import (
    Block,
    CachedPictures,
    CachedProducts,
    CachedTexts,
    Outputs,
    as_given,
)
from beyond_text.training.callbacks import Retrieval
from beyond_text.training.datamodule import ShardData
from beyond_text.training.fill_cache import IMAGE, Kept, Part, Task, fill
from beyond_text.training.module import ContrastiveModule
from beyond_text.training.optim import frozen_towers

# Part of the folder names' digest: after a change of the layout, older blocks are not found.
LAYOUT = 2


class EmbeddingCache:
    """Fills a folder with the outputs of the frozen towers, and makes a run use them.

    Training pictures that are augmented are left out: they are different each time.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def use(self, module: ContrastiveModule, data: ShardData, retrieval: Retrieval) -> None:
        """Computes the missing blocks, each in one of the processes, and takes all of them.

        Raises:
            ConfigError: the processes do not share the folder, or its disk has not the room.
            OSError: the folder cannot be written; names it or the file.
            ShardError: a file in it is damaged.
        """
        model, share = module.model, retrieval.share
        frozen = frozen_towers(model)
        if not frozen:
            if share.is_first:
                line = f"cache={self.folder} is not used: no tower is frozen"
                say(line)
            return
        encoder = retrieval.encoder(module)
        products = retrieval.dev.catalogue.products
        searched = products.splits if isinstance(products, ShardProducts) else []
        kept = share.together(partial(self._kept, model, module.config, data, searched, frozen))
        tasks = [task for number, each in enumerate(kept) for task in _tasks(number, each, frozen)]
        # One process looks what is missing: another may have begun to write.
        numbers = share.first(lambda: _incomplete(tasks), list[int])
        layouts = {name: model.towers[name].layout for name in frozen}
        lacking = [_lacking(tasks[number]) for number in numbers]
        share.first(partial(check_room, self.folder, layouts, kept, lacking), type(None))
        own = share.of(lacking)
        share.together(partial(fill, encoder, kept, own))
        share.together(partial(self._use, model, data, retrieval, kept, frozen))

    def _kept(
        self,
        model: TwoTower,
        config: Config,
        data: ShardData,
        searched: Sequence[Split],
        frozen: Sequence[str],
    ) -> list[Kept]:
        """Lists the splits that the run trains on, then those that it searches on dev."""
        towers = {name: model.towers[name] for name in frozen}
        digests = {name: tower.digest() for name, tower in towers.items()}
        kept = []
        training = [source.split for source in data.sources.values()]
        has_own = model.own_query_tower is not None
        of_queries = "own_query_tower" if has_own else "text_tower"
        for split, augmented in (
            *((split, config.data.augment) for split in training),
            *((split, False) for split in searched),
        ):
            picture = None if augmented or IMAGE not in frozen else data.collate.picture_size
            texts = any(name != IMAGE for name in frozen)
            queries = _query_texts(split) if of_queries in frozen else []
            counts = {
                "products": len(split) if texts or picture else 0,
                "queries": len(queries),
                "query_pictures": len(split.query_pictures) if picture else 0,
            }
            parts = {kind: Part(kind, count) for kind, count in counts.items()}
            folders = self._folders(model, config, split, digests)
            kept.append(Kept(split, picture, queries, parts, folders))
        return kept

    def _folders(
        self, model: TwoTower, config: Config, split: Split, digests: dict[str, str]
    ) -> dict[str, Path]:
        """Names the folder of each tower's outputs for a split."""
        settings = model.settings
        common = precision_of(config.precision), split.checksums
        words = settings.pooling, settings.text_prefix, settings.query_prefix
        as_text = *common, *words, settings.lower_case, settings.max_length, split.text_fields
        size = settings.image_size
        as_picture = *common, settings.mean, settings.std, settings.image_pooling, size
        folders = {}
        for name, digest in digests.items():
            tower = model.towers[name]
            read = () if tower.gives == "vector" else (tower.gives, *tower.layout)
            content = (LAYOUT, digest, as_picture if name == IMAGE else as_text, *read)
            folders[name] = self.folder / hashlib.sha256(repr(content).encode()).hexdigest()
        return folders

    def _use(
        self,
        model: TwoTower,
        data: ShardData,
        retrieval: Retrieval,
        kept: Sequence[Kept],
        frozen: Sequence[str],
    ) -> None:
        """Makes towers, training data and the measurement take what is kept."""
        for each in kept:
            for task in _tasks(0, each, frozen):
                for block in task.blocks.values():
                    if not block.is_whole:
                        raise ConfigError(
                            f"cache={self.folder}: {block.keys} is not there, though a process "
                            "has written it; expected a folder that all machines share"
                        )
        for name in frozen:
            if name != IMAGE:
                found = {b: None for each in kept for b in _text_blocks(model, name, each)}
                tower = model.towers[name]
                tower.cached = CachedTexts(Outputs(list(found), tower.layout.size))
        if IMAGE not in frozen:
            return
        pictures = [self._pictures(model, each) for each in kept]
        data.cached = [p for p in pictures[: len(data.sources)] if p is not None]
        searched = [p for p in pictures[len(data.sources) :] if p is not None]
        model.image_tower.cached = as_given
        known = retrieval.dev.catalogue.products
        if searched and isinstance(known, ShardProducts):
            retrieval.swap = partial(_with_vectors, known, searched)

    def _pictures(self, model: TwoTower, kept: Kept) -> CachedPictures | None:
        """Returns the kept vectors of a split's pictures; None where they are left out."""
        if kept.picture is None:
            return None
        size = model.image_tower.layout.size
        kinds = ("products", "query_pictures")
        return CachedPictures(*(Outputs(kept.blocks(IMAGE, kind), size) for kind in kinds))


def _with_vectors(
    known: ShardProducts, cached: Sequence[CachedPictures], products: Dataset[Sample]
) -> Dataset[Sample]:
    """Returns products with vectors for their pictures, where they are the known ones."""
    return CachedProducts(known, cached) if products is known else products


def _query_texts(split: Split) -> list[str]:
    """Returns the distinct texts of a split's queries."""
    texts = split.asked.table()["query"].unique().to_pylist()
    return [text for text in texts if text]


def _towers(kept: Kept, kind: str, frozen: Sequence[str]) -> list[str]:
    """Returns the frozen towers that read a kind of inputs."""
    texts = [name for name in frozen if name != IMAGE]
    own = [name for name in texts if name == "own_query_tower"]
    of_products = [name for name in texts if name != "own_query_tower"]
    if kind == "queries":
        return own if "own_query_tower" in kept.folders else of_products
    image = [IMAGE] if IMAGE in frozen and kept.picture is not None else []
    return image if kind == "query_pictures" else [*of_products, *image]


def _tasks(split: int, kept: Kept, frozen: Sequence[str]) -> Iterator[Task]:
    """Yields all blocks of a split, with the towers that have one each."""
    for kind, part in kept.parts.items():
        names = _towers(kept, kind, frozen)
        for numbers in part.blocks if names else ():
            blocks = {n: Block.of(kept.folders[n], kind, numbers.start) for n in names}
            yield Task(split, kind, numbers, blocks)


def _incomplete(tasks: Sequence[Task]) -> list[int]:
    """Returns which tasks lack a block, each block once."""
    found: set[Block] = set()
    numbers = []
    for number, task in enumerate(tasks):
        lacking = {block for block in task.blocks.values() if not block.is_whole} - found
        if lacking:
            found |= lacking
            numbers.append(number)
    return numbers


def _lacking(task: Task) -> Task:
    """Returns a task without the blocks that are whole."""
    return task._replace(blocks={n: b for n, b in task.blocks.items() if not b.is_whole})


def _text_blocks(model: TwoTower, name: str, kept: Kept) -> list[Block]:
    """Returns the blocks of texts of a tower."""
    own = model.own_query_tower is not None
    kinds = {"own_query_tower": ["queries"], "text_tower": ["products"]}[name]
    kinds = kinds if own else ["products", "queries"]
    return [block for kind in kinds for block in kept.blocks(name, kind)]
