"""Turns samples into a batch: tokens, pictures, and the judgments between them.

What stands twice in a batch (a text, a query's text or picture) is encoded once. A sample that
could not be read stays as an empty row, so every process keeps equal rows, and is named in
`skipped`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from beyond_text.shards.batch import (
    EMPTY_SAMPLE,
    Batch,
    Judgment,
    Qrels,
    QueryKeys,
    Sample,
    Tokens,
    counts_of,
    key_of,
    query_text_key,
)
from beyond_text.shards.tokenize import Tokenizer, tokenize
from beyond_text.shards.transform import to_square


def _distinct(texts: Sequence[str]) -> tuple[list[str], Tensor]:
    """Returns distinct non-empty texts, and each text's row among them (-1 for an empty one)."""
    index = {text: number for number, text in enumerate(dict.fromkeys(filter(None, texts)))}
    return list(index), torch.tensor([index.get(text, -1) for text in texts])


def _query_keys(queries: Sequence[tuple[Judgment | None, int]]) -> QueryKeys:
    """Returns the keys of queries, each given with the number of its source; 0 where it is None."""
    texts = [query_text_key(query.query) if query else 0 for query, _ in queries]
    pictures = [
        key_of(f"picture {source}/{query.picture}") if query and query.picture is not None else 0
        for query, source in queries
    ]
    both = [
        key_of(f"{text}+{picture}") if text and picture else text or picture
        for text, picture in zip(texts, pictures, strict=True)
    ]
    return QueryKeys(*(torch.tensor(keys, dtype=torch.long) for keys in (texts, pictures, both)))


class Collate:
    """Turns a list of samples into a Batch; with `augment_seed`, pictures are augmented.

    The prefixes are put before texts of products and of queries, as the text encoder wants them.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        max_length: int,
        fixed_length: bool,
        picture_size: int,
        augment_seed: int | None = None,
        smallest_crop: float = 1.0,
        text_prefix: str = "",
        query_prefix: str = "",
    ) -> None:
        self.text_prefix = text_prefix
        self.query_prefix = query_prefix
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.fixed_length = fixed_length
        self.picture_size = picture_size
        self.augment_seed = augment_seed
        self.smallest_crop = smallest_crop

    def _picture(self, picture: Tensor, epoch: int, identity: str) -> Tensor:
        if picture.ndim == 1:
            # What a frozen tower has made of it.
            return picture
        seed = None
        if self.augment_seed is not None:
            seed = (self.augment_seed, epoch, key_of(identity) % 2**63)
        return to_square(picture, self.picture_size, seed, self.smallest_crop)

    def _pictures(self, samples: Sequence[Sample]) -> tuple[Tensor, Tensor, Tensor]:
        """Stacks the pictures of distinct products, then of distinct queries.

        Returns:
            The pictures [pictures, 3, size, size], and for every row the index of its product's
            and of its query's picture, -1 where there is none.
        """
        products = [(s.image, s.epoch, s.product_id) for s in samples]
        queries = [(s.query_image, s.epoch, s.query.query_id if s.query else "") for s in samples]
        pictures: list[Tensor] = []
        rows: list[Tensor] = []
        for entries in (products, queries):
            index: dict[tuple[int, str], int] = {}
            row = []
            for picture, epoch, identity in entries:
                if picture is not None and (epoch, identity) not in index:
                    index[epoch, identity] = len(pictures)
                    pictures.append(self._picture(picture, epoch, identity))
                row.append(-1 if picture is None else index[epoch, identity])
            rows.append(torch.tensor(row))
        image_row, query_row = rows
        size = self.picture_size
        if not pictures:
            stacked = torch.zeros(0, 3, size, size, dtype=torch.uint8)
        elif pictures[0].ndim == 1:
            stacked = torch.stack(pictures)
        else:
            # Stacked as they lie in memory, which is also how the towers take them.
            stacked = torch.stack([p.permute(1, 2, 0) for p in pictures]).permute(0, 3, 1, 2)
        return stacked, image_row, query_row

    def _tokens(self, texts: Sequence[str], prefix: str) -> tuple[Tokens, Tensor]:
        distinct, row = _distinct(texts)
        distinct = [prefix + text for text in distinct]
        return tokenize(self.tokenizer, distinct, self.max_length, self.fixed_length), row

    def __call__(self, entries: Sequence[Sample | str]) -> Batch:
        """Makes a batch with a row per entry: a sample, or a line that says why there is none."""
        skipped = [entry for entry in entries if isinstance(entry, str)]
        samples = [EMPTY_SAMPLE if isinstance(entry, str) else entry for entry in entries]
        text, text_row = self._tokens([sample.text for sample in samples], self.text_prefix)
        queries = [s.query.query if s.query else "" for s in samples]
        query, query_row = self._tokens(queries, self.query_prefix)
        image, image_row, query_image_row = self._pictures(samples)
        judged = [
            (judgment, sample.source, row)
            for row, sample in enumerate(samples)
            for judgment in sample.judgments
        ]
        batch = Batch(
            product_ids=[sample.product_id for sample in samples],
            product_key=torch.tensor([key_of(f"{s.namespace}/{s.product_id}") for s in samples]),
            text=text,
            text_row=text_row,
            text_key=torch.tensor([key_of(sample.text) for sample in samples]),
            query=query,
            query_row=query_row,
            query_keys=_query_keys([(sample.query, sample.source) for sample in samples]),
            image=image,
            image_row=image_row,
            query_image_row=query_image_row,
            qrels=Qrels(
                _query_keys([(judgment, source) for judgment, source, _ in judged]),
                torch.tensor([row for _, _, row in judged], dtype=torch.long),
                torch.tensor([judgment.gain for judgment, _, _ in judged]),
            ),
            # A batch is of one source; where nothing of it could be read, it feeds nothing.
            losses=next((sample.losses for sample in samples if sample.losses), ()),
            skipped=skipped,
        )
        return batch._replace(counts=counts_of(batch))
