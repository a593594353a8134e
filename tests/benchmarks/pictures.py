"""What torchvision costs a picture, beside another decoder and bare resizing.

    python -m tests.benchmarks.pictures SHARDS

On one core and in turn. Prints microseconds a picture, the ratio to the first of each pair, and
whether all bits are equal.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
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


def compare(
    contenders: dict[str, Callable[[Any], Tensor]], inputs: Sequence[Any]
) -> dict[str, tuple[float, float, bool]]:
    """Microseconds an input, the ratio to the first contender, and whether bits are equal."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, contender in contenders.items():
            start = time.perf_counter()
            for each in inputs:
                contender(each)
            seconds[name].append(time.perf_counter() - start)
    first, *_ = contenders
    return {
        name: (
            1e6 * median(seconds[name]) / len(inputs),
            median(a / b for a, b in zip(seconds[name], seconds[first], strict=True)),
            all(torch.equal(contender(each), contenders[first](each)) for each in inputs),
        )
        for name, contender in contenders.items()
    }


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
    for contenders, inputs in (
        ({"simplejpeg": by_simplejpeg, "torchvision.io": by_torchvision}, data),
        ({"interpolate": bare, "to_square": by_recipe}, [by_simplejpeg(each) for each in data]),
    ):
        for name, (cost, ratio, equal) in compare(contenders, inputs).items():  # type: ignore[arg-type]
            table.add_row(name, f"{cost:.1f}", f"{ratio:.3f}", str(equal))
    Console().print(table)


if __name__ == "__main__":
    main()
