"""Reads the lists of words that a picture may be tagged with, and finds them in texts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import regex

from beyond_text.config.mapping import read_mapping
from beyond_text.retrieval.words import folded

WORDS = Path(__file__).with_name("words.yaml")
PRODUCT_TYPE = "product_type"
# Columns of the table of attributes that are no field.
RESERVED = ("product_id", PRODUCT_TYPE)
# Stands for the type of a product of which none is known.
ANY_TYPE = "product"
PLACEHOLDERS = ("word", "category")
# Texts of these scripts have no blanks between words.
UNPARTED = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\u30fc]+"
)


class Field:
    """A field such as colour: its prompts, and its words with all forms of each, itself first."""

    def __init__(
        self, name: str, prompts: tuple[str, ...], words: dict[str, tuple[str, ...]]
    ) -> None:
        self.name = name
        self.prompts = prompts
        self.words = words

    @cached_property
    def _by_form(self) -> dict[str, int]:
        return {
            folded_words(form): number
            for number, forms in enumerate(self.words.values())
            for form in forms
        }

    @cached_property
    def _form(self) -> Any:
        # The longest first, so that `off white` is no `white`.
        forms = sorted(self._by_form, key=len, reverse=True)
        whole = (each if UNPARTED.fullmatch(each) else f"(?<= ){each}(?= )"
                 for each in map(regex.escape, forms))  # fmt: skip
        return regex.compile("|".join(whole))

    def named_in(self, text: str) -> list[int]:
        """Returns the numbers of the words that a text names as whole words, each once.

        Those of a script that is written without blanks are found anywhere.
        """
        found = self._form.findall(f" {folded_words(text)} ")
        return sorted({self._by_form[form] for form in found})

    def prompts_of(self, word: str, category: str) -> list[str]:
        """Returns what may be said of a picture that shows the word, for a type of products."""
        filled = (
            prompt.replace("{category}", category).replace("{word}", form)
            for form in self.words[word]
            for prompt in self.prompts
        )
        return list(dict.fromkeys(filled))

    @property
    def uses_category(self) -> bool:
        """Whether a prompt names the type of the product."""
        return any("{category}" in prompt for prompt in self.prompts)


def read_fields(path: Path | None = None) -> list[Field]:
    """Reads fields from a YAML of words; the default is the package's own.

    Raises:
        ValueError: the file is not as `words.yaml`, or cannot be read; names the file, the field
            and the word.
    """
    path = path or WORDS
    content = read_mapping(path, "a field such as `colour:`")
    return [_field(path, name, field) for name, field in content.items()]


def _field(path: Path, name: object, content: object) -> Field:
    """Checks a field of the file."""
    if not isinstance(name, str) or not regex.fullmatch(r"\w+", name) or name in RESERVED:
        raise ValueError(
            f"{path}: a field called {_shown(name)}: expected a name of letters, digits and _, "
            f"other than {' and '.join(RESERVED)}"
        )
    where = f"{path}: {name}"
    if not isinstance(content, dict) or set(content) != {"prompts", "words"}:
        raise ValueError(f"{where}: expected `prompts` and `words`, got {_shown(content)}")
    prompts = content["prompts"]
    if not isinstance(prompts, list) or not prompts or not all(map(_is_prompt, prompts)):
        raise ValueError(
            f'{where}: prompts: expected texts such as "a {{word}} {{category}}", with {{word}} '
            f"and nothing else in braces but {{category}}, got {_shown(prompts)}"
        )
    return Field(name, tuple(prompts), _words(where, content["words"]))


def _is_prompt(prompt: object) -> bool:
    if not isinstance(prompt, str):
        return False
    left = prompt
    for placeholder in PLACEHOLDERS:
        left = left.replace(f"{{{placeholder}}}", "")
    return "{word}" in prompt and not {"{", "}"} & set(left)


def _words(where: str, content: object) -> dict[str, tuple[str, ...]]:
    """Checks the words of a field, given as a list or with further forms of each."""
    if isinstance(content, list) and all(isinstance(word, str) for word in content):
        content = dict.fromkeys(content)
    if not isinstance(content, Mapping) or len(content) < 2:
        raise ValueError(
            f"{where}: words: expected two words or more, each with a list of further forms, "
            f"got {_shown(content)}"
        )
    words: dict[str, tuple[str, ...]] = {}
    owner: dict[str, str] = {}
    for word, further in content.items():
        forms = [word, *([] if further is None else further if isinstance(further, list) else [0])]
        for form in forms:
            if not isinstance(form, str) or not folded_words(form):
                raise ValueError(
                    f"{where}: words: {_shown(word)}: expected words and lists of their forms, in "
                    f'quotes where YAML reads them as something else ("no"), got {_shown(further)}'
                )
            if (other := owner.setdefault(folded_words(form), word)) != word:
                raise ValueError(f"{where}: words: {form!r} stands for {other!r} and {word!r}")
        words[word] = tuple(dict.fromkeys(forms))
    return words


def folded_words(text: str) -> str:
    """Returns the words of a text without differences of case and accents, parted by one blank."""
    return " ".join(regex.findall(r"[\p{L}\p{M}\p{N}]+", folded(text)))


def _shown(content: object) -> str:
    text = repr(content)
    return text if len(text) <= 80 else f"{text[:77]}..."
