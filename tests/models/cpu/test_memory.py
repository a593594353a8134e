"""Tests that a training process keeps freed memory for its next step, and can give it back."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

glibc = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc"
)
PAGES = """
import resource, torch
from beyond_text.models.cpu.memory import keep_freed_memory
{call}
def step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [torch.ones(64, 2**18) for _ in range(4)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print([step() for _ in range(8)][-1])
"""


def printed(code: str) -> int:
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(found.stdout)


def pages_of_a_step(call: str) -> int:
    """Counts the new pages of the last of eight steps that each take and free 256 MB."""
    return printed(PAGES.format(call=call))


RESIDENT = """
import resource, torch
from pathlib import Path
from beyond_text.models.cpu.memory import give_back_freed_memory, keep_freed_memory
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
keep_freed_memory()
held = [torch.ones(64, 2**18) for _ in range(4)]
last = torch.ones(2**18)
del held
kept = resident()
give_back_freed_memory()
print(kept - resident())
"""


@glibc
def test_what_was_kept_can_be_given_back() -> None:
    assert printed(RESIDENT) > 250 * 2**20


@glibc
def test_a_step_takes_no_new_pages_for_what_the_one_before_freed() -> None:
    assert pages_of_a_step("assert keep_freed_memory()") < 100
    assert pages_of_a_step("") > 10_000


CHUNKED = """
import resource, torch
from pathlib import Path
from beyond_text.models.chunks import CHUNKS_BETWEEN, in_chunks
from beyond_text.models.cpu.memory import keep_freed_memory
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
keep_freed_memory()
seen = []
weight = torch.ones((), requires_grad=True)
def of_chunk(rows):
    seen.append(resident())
    held = [torch.ones(64, 2**18) for _ in range(4)]
    return weight * rows
rows = torch.arange(CHUNKS_BETWEEN + 1.0)
in_chunks(of_chunk, torch.nn.Identity(), (rows,), 1).sum().backward()
# The last chunk is the first to be repeated.
before, last, again = seen[CHUNKS_BETWEEN - 1 : CHUNKS_BETWEEN + 2]
print(before - max(last, again))
"""


@glibc
def test_what_some_chunks_freed_is_given_back_before_the_next_and_its_repetition() -> None:
    assert printed(CHUNKED) > 250 * 2**20
