"""Keeps indexes open by name, and opens them again once they were updated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from beyond_text.config.names import IndexKind
from beyond_text.encoding.model import Precision
from beyond_text.indexing.index import Index
from beyond_text.serving.measures import Measures
from beyond_text.terminal import one_line, say

WARMING = "a red vase"


class Indexes(Mapping[str, Index]):
    """Open indexes by name; the first is the one that is searched where none is named.

    A query keeps the index that it was asked of, so one that is replaced loses no request.

    Args:
        paths: index folders by name.
        measures: count what is opened again.
        precision: of the model that encodes queries.
        kind: of the search over vectors; None for that of each index.
        threads: that encode one batch; 0 for every core.
    """

    def __init__(
        self,
        paths: Mapping[str, Path],
        measures: Measures,
        precision: Precision = "float32",
        kind: IndexKind | None = None,
        threads: int = 0,
    ) -> None:
        self._paths = dict(paths)
        self._measures = measures
        self._precision = precision
        self._kind = kind
        self._threads = threads
        # What was last said of an index that cannot be opened: once, not at every look.
        self._said: dict[str, str] = {}
        self._open = {name: self._opened(name) for name in self._paths}

    def __getitem__(self, name: str) -> Index:
        return self._open[name]

    def __iter__(self):  # type: ignore[no-untyped-def]  # noqa: ANN204
        return iter(self._open)

    def __len__(self) -> int:
        return len(self._open)

    def reload(self) -> list[str]:
        """Opens what was updated since it was opened; returns the names.

        An index that cannot be opened is named, and the one that is open goes on answering.
        """
        names = []
        for name, index in list(self._open.items()):
            try:
                if index.is_current():
                    continue
                self._open[name] = self._opened(name)
            except Exception as error:
                self._measures.reloads.labels(name, "failed").inc()
                line = f"{self._paths[name]}: not opened again: {one_line(error)}"
                if self._said.get(name) != line:
                    say(line)
                self._said[name] = line
            else:
                self._said.pop(name, None)
                self._measures.reloads.labels(name, "opened").inc()
                names.append(name)
        return names

    def _opened(self, name: str) -> Index:
        """Opens an index and searches it once, so that the first client need not wait."""
        index = Index.open(self._paths[name], self._kind, self._threads)
        vectors = index.encode(texts=[WARMING], precision=self._precision)
        index.search_vectors(vectors, [WARMING], top=1)
        self._measures.products.labels(name).set(len(index))
        return index


def named(words: Sequence[str]) -> dict[str, Path]:
    """Returns the paths of `PATH` and `NAME=PATH` by name; a folder's name is its own.

    Raises:
        ValueError: two of one name.
    """
    paths: dict[str, Path] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not equals or "/" in name or Path(word).exists():
            name, path = Path(word).resolve().name, word
        if name in paths:
            raise ValueError(f"two indexes are called {name!r}: name one of them, as NAME=FOLDER")
        paths[name] = Path(path)
    return paths
