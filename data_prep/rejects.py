"""The error of a build; what it rejects is counted by `beyond_text.tables.rejects`."""

from __future__ import annotations


class BuildError(ValueError):
    """Shards were not written; the message says what was wrong and what to do."""
