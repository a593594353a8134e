"""Loads an encoder's tokenizer, and refuses one that reads nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer

from beyond_text.config.settings import ConfigError
from beyond_text.terminal import first_line

# Read by any tokenizer of a shop's language as at least two inputs.
PROBES = ("red", "rug", "a blue vase", "the home", "12", "z")


class LowerCased:
    """A tokenizer that reads texts in lower case."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __call__(self, texts: str | Sequence[str], **settings: Any) -> Any:
        """Tokenizes texts as the tokenizer does."""
        one = isinstance(texts, str)
        lower = texts.lower() if one else [text.lower() for text in texts]  # type: ignore
        return self.tokenizer(lower, **settings)

    def save_pretrained(self, folder: str | Path) -> Any:
        """Saves the tokenizer alone; `ModelSettings.lower_case` says the rest."""
        return self.tokenizer.save_pretrained(folder)


def load_tokenizer(path: str, lower_case: bool = False) -> Any:
    """Loads the tokenizer of a folder or hub name; pads on the right, lowers case where told.

    Raises:
        ConfigError: no files of a tokenizer, or every text becomes the same input.
    """
    # Batches are tokenized by several processes, which need no threads of their own.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise ConfigError(
            f"{path}: no tokenizer there that transformers loads by itself ({first_line(error)})"
        ) from error
    names = {"tokenizer.json", *getattr(tokenizer, "vocab_files_names", {}).values()}
    if Path(path).is_dir() and not any(Path(path, name).is_file() for name in names):
        raise ConfigError(f"{path}: no tokenizer there: expected one of {', '.join(sorted(names))}")
    tokenizer.padding_side = "right"
    loaded = LowerCased(tokenizer) if lower_case else tokenizer
    if len({tuple(loaded(text)["input_ids"]) for text in PROBES}) == 1:
        raise ConfigError(f"{path}: its tokenizer makes the same input of every text")
    return loaded


def reads_lower_case(path: str) -> bool:
    """Returns whether an encoder was trained on texts in lower case: SigLIP and SigLIP2 were.

    SigLIP2's checkpoints of fixed resolution come with a tokenizer that leaves case.
    """
    try:
        return "siglip" in AutoConfig.from_pretrained(path, trust_remote_code=False).model_type
    except (OSError, ValueError):
        return False


def reads_alike(one: Any, other: Any) -> bool:
    """Says whether two tokenizers make the same inputs of a text: by vocabulary and by probes."""
    texts = (*PROBES, "A Blue Vase")
    if any(list(one(text)["input_ids"]) != list(other(text)["input_ids"]) for text in texts):
        return False
    inner = [t.tokenizer if isinstance(t, LowerCased) else t for t in (one, other)]
    return inner[0].get_vocab() == inner[1].get_vocab()
