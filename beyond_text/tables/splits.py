"""Draws splits by hash: the same ids are held out on every machine and in every run."""

from __future__ import annotations

import hashlib

import pandas as pd


def hash_splits(ids: pd.Series, dev_share: float) -> list[str]:
    """Returns "dev" for the share of ids whose hash says so, "train" for the others."""
    return ["dev" if is_in_share(identity, dev_share) else "train" for identity in ids]


def is_in_share(identity: str, share: float) -> bool:
    """Says whether the hash of a text falls into a share, 0 to 1, of all."""
    digest = hashlib.sha256(identity.encode()).digest()[:8]
    return int.from_bytes(digest, "big") < share * 2**64


def spread_over_splits(frame: pd.DataFrame, column: str, qrels: pd.DataFrame) -> pd.DataFrame:
    """Returns a row for each split that an id is judged in; ids that are not judged go to train."""
    membership = qrels[[column, "split"]].drop_duplicates()
    spread = frame.merge(membership, on=column, how="left")
    return spread.assign(split=spread["split"].fillna("train"))
