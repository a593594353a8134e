"""The error of one URL that was not fetched."""

from __future__ import annotations


class FetchError(Exception):
    """A picture was not fetched: `reason` is a short name to count by, `detail` explains.

    Attributes:
        passing: whether a further attempt may succeed.
        unreachable: whether the host did not answer at all.
        wait: seconds after which the host asks to be tried again, or None.
    """

    def __init__(
        self,
        reason: str,
        detail: str,
        passing: bool = False,
        unreachable: bool = False,
        wait: float | None = None,
    ) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail
        self.passing = passing
        self.unreachable = unreachable
        self.wait = wait
