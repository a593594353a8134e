"""Reads a user's YAML that is no configuration, such as rules or words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from beyond_text.terminal import one_line


class _Loader(yaml.SafeLoader):
    """Reads YAML in which no key stands twice: of two, PyYAML would take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Reads a mapping.

        Raises:
            ConstructorError: a key stands twice.
        """
        found = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = [at for at, key in enumerate(found) if key in found[:at]]
        if twice:
            problem, mark = f"{found[twice[0]]!r} stands twice", node.value[twice[0]][0].start_mark
            raise yaml.constructor.ConstructorError(None, None, problem, mark)
        return super().construct_mapping(node, deep)


def read_mapping(path: Path, expected: str) -> dict[Any, Any]:
    """Reads a mapping that is not empty; `expected` says in errors what it should begin with.

    Raises:
        ValueError: the file cannot be read, or is no such mapping; names the file.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path}: not readable as YAML: {one_line(error)}") from error
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path}: expected {expected}, got {content!r:.80}")
    return content
