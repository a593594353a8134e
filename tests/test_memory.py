"""What a training process frees, it keeps for its next step."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

PAGES = """
import resource, torch
from beyond_text.memory import keep_freed_memory
{call}
def step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [torch.ones(64, 2**18) for _ in range(4)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print([step() for _ in range(8)][-1])
"""


def pages_of_a_step(call: str) -> int:
    """New pages of the last of eight steps that each take 256 MB and free them."""
    code = PAGES.format(call=call)
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(found.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_a_step_takes_no_new_pages_for_what_the_one_before_freed() -> None:
    assert pages_of_a_step("assert keep_freed_memory()") < 100
    assert pages_of_a_step("") > 10_000
