"""What torchvision costs a picture, beside another decoder and bare resizing.

    python -m tests.benchmarks.pictures SHARDS

On one core and in turn. Prints microseconds a picture, the ratio to the first of each pair, and
whether all bits are equal.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from simplejpeg import decode_jpeg
from torch import Tensor
from torch.nn import functional as F
from torchvision import io

from beyond_text.shards.split import Split
from beyond_text.shards.transform import to_square
from tests.benchmarks.measure import in_turn

SIZE, ROUNDS = 160, 15


def by_simplejpeg(data: bytes) -> Tensor:
    return torch.from_numpy(decode_jpeg(data)).permute(2, 0, 1)


def by_torchvision(data: bytes) -> Tensor:
    return io.decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8))


def bare(pixels: Tensor) -> Tensor:
    """The resizing alone, as torchvision calls it."""
    whole = pixels.permute(1, 2, 0).contiguous()[None].permute(0, 3, 1, 2)
    return F.interpolate(whole, (SIZE, SIZE), mode="bilinear", antialias=True)[0]


def by_recipe(pixels: Tensor) -> Tensor:
    return to_square(pixels, SIZE)


def rates(contender: Callable[[Any], Tensor], inputs: Sequence[Any]) -> Iterator[float]:
    """Pictures a second, a round each time."""
    while True:
        start = time.perf_counter()
        for each in inputs:
            contender(each)
        yield len(inputs) / (time.perf_counter() - start)


def main(words: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.pictures", description=__doc__
    )
    parser.add_argument("shards", type=Path)
    parser.add_argument("--pictures", type=int, default=400)
    arguments = parser.parse_args(words)
    torch.set_num_threads(1)
    products = Split(arguments.shards, "train", ["title"]).products
    contents = (products.read(number, ("jpg",)) for number in range(len(products)))
    data = [content["jpg"] for content in contents if "jpg" in content][: arguments.pictures]
    table = Table("contender", "microseconds", "ratio", "equal bits")
    pairs: tuple[tuple[dict[str, Callable[[Any], Tensor]], list[Any]], ...] = (
        ({"simplejpeg": by_simplejpeg, "torchvision.io": by_torchvision}, data),
        ({"interpolate": bare, "to_square": by_recipe}, [by_simplejpeg(each) for each in data]),
    )
    for contenders, inputs in pairs:
        measured, _ = in_turn({n: rates(c, inputs) for n, c in contenders.items()}, ROUNDS)
        first, *_ = contenders
        for name, contender in contenders.items():
            ratio = median(measured[first]) / median(measured[name])
            equal = all(torch.equal(contender(each), contenders[first](each)) for each in inputs)
            table.add_row(name, f"{1e6 / median(measured[name]):.1f}", f"{ratio:.3f}", str(equal))
    Console().print(table)


if __name__ == "__main__":
    main()
