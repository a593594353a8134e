"""Names the tables of the README and of recipes/results, and the commands that make each.

A result's own folder of runs is {runs}/NAME. Settings are chosen on dev; a test split is measured
by `stages_test` alone.
"""

from __future__ import annotations

from tests.benchmarks.results import Result

EVALUATE = "{python} -m beyond_text.evaluate"
ABLATE = "{python} -m beyond_text.ablate"
BENCHMARK = "{python} -m tests.benchmarks."
FROZEN = (
    "evaluate_every=0 lr.text_encoder=0 lr.image_encoder=0 data.augment=false cache={runs}/cache"
)
FUSIONS = "bilinear concat gated sum moe block mutan lmf attended"


def _stages(runs: str, *words: str, seed: int = 0) -> str:
    """Returns the command that trains the three stages."""
    given = " ".join(words)
    return f'make stage1 stage2 stage3 RUNS={{runs}}/{runs}-{seed} ARGS="seed={seed}" {given}'


def _shop(shop: str) -> Result:
    """Returns the runs of a shop's three stages, by two seeds, and its pairs of designs."""
    words = f"TABLES={{tables}}/{shop}"
    return Result(
        (
            *(_stages(shop, words, seed=seed) for seed in (0, 1)),
            f"{{python}} -m data_prep.mbeer {{tables}}/{shop} {{runs}}/{shop}-pairs.jsonl",
        ),
        needs=(shop,),
        page=False,
    )


def _table_of_stages(shop: str, split: str = "dev") -> str:
    return f"{BENCHMARK}stages {{runs}}/{shop}-0 {{runs}}/{shop}-1 --split {split}"


def _compared(shop: str, name: str, *words: str) -> Result:
    """Returns a comparison of a shop's stage 3 with its first two stages."""
    runs = " ".join(f"{{runs}}/{shop}-0/stage{stage}" for stage in (1, 2, 3))
    given = " ".join(words)
    command = f"{EVALUATE} {runs} --tables {{runs}}/{shop}-0/shards {given} --out {{out}}/{name}"
    kind = words[0].removeprefix("--")
    return Result((command,), (f"{{out}}/{name}/{kind}.md",), after=(shop,))


def _ladder(shop: str, name: str, options: str, seeds: str, settings: str) -> Result:
    """Returns a ladder that starts from a shop's stage 2."""
    command = (
        f"{ABLATE} {options} --seeds {seeds} --start {{runs}}/{shop}-0/stage2 "
        f"--out {{runs}}/{name} {settings}"
    )
    table = f"{{runs}}/{name}/table.md"
    return Result((command,), (table,), after=(shop,), seeds=seeds.replace(" ", ", "))


RESULTS: dict[str, Result] = {
    # Runs that tables are made of.
    "catalogue": Result(tuple(_stages("catalogue", seed=seed) for seed in (0, 1)), page=False),
    "hm": _shop("hm"),
    "ikea": _shop("ikea"),
    # The three stages.
    "stages": Result((_table_of_stages("catalogue"),), after=("catalogue",), seeds="0, 1"),
    "hm_stages": Result((_table_of_stages("hm"),), after=("hm",), seeds="0, 1"),
    "ikea_stages": Result((_table_of_stages("ikea"),), after=("ikea",), seeds="0, 1"),
    # Which fusion, and which stages?
    "hm_fusion": _ladder(
        "hm", "hm_fusion", f"--fusion {FUSIONS} text image", "0 1 2", "budget=0.25 evaluate_every=0"
    ),
    "hm_fusion_frozen": _ladder(
        "hm", "hm_fusion_frozen", f"--fusion {FUSIONS}", "0 1", f"budget=0.5 {FROZEN}"
    ),
    "hm_curriculum": _ladder(
        "hm", "hm_curriculum", "--curriculum", "0 1", "budget=0.35 evaluate_every=0"
    ),
    # Other shops, scenarios, missing pictures, words beside vectors.
    "shops": Result(
        (
            f"{EVALUATE} {{runs}}/hm-0/stage1 {{runs}}/hm-0/stage3 {{runs}}/ikea-0/stage1 "
            "{runs}/ikea-0/stage3 --tables {runs}/hm-0/shards --others {runs}/ikea-0/shards "
            "{runs}/catalogue-0/shards --out {out}/shops",
        ),
        ("{out}/shops/shops.md",),
        after=("hm", "ikea", "catalogue"),
    ),
    "hm_scenarios": _compared("hm", "hm_scenarios", "--scenarios", "{runs}/hm-pairs.jsonl"),
    "ikea_scenarios": _compared("ikea", "ikea_scenarios", "--scenarios", "{runs}/ikea-pairs.jsonl"),
    "hm_missing": _compared("hm", "hm_missing", "--missing"),
    "ikea_missing": _compared("ikea", "ikea_missing", "--missing"),
    "hybrid": Result(
        (
            "{python} -m data_prep.catalogue {runs}/lookups --lookups",
            f"{EVALUATE} {{runs}}/catalogue-0/stage3 --tables {{runs}}/lookups --hybrid "
            "--out {out}/hybrid",
        ),
        ("{out}/hybrid/hybrid.md",),
        after=("catalogue",),
    ),
    # Speed and size.
    "throughput": Result(
        (
            f"{BENCHMARK}throughput {{runs}}/hm-0/shards --steps 5 --rounds 3 "
            "--out {out}/throughput.json",
        ),
        after=("hm",),
        pool="none",
    ),
    "quality": Result(
        (
            f"{BENCHMARK}quality {{runs}}/hm-0/shards --only stage1 --steps 40 --every 10 "
            "--out {out}/quality.json",
        ),
        after=("hm",),
    ),
    "search": Result(
        (f"{BENCHMARK}search {{runs}}/hm-0/stage3 --shards {{runs}}/hm-0/shards",),
        after=("hm",),
        pool="10,000 to a million grown vectors",
    ),
    "large_batch": Result(
        (f"{BENCHMARK}large_batch {{runs}}/hm-0/shards --out {{out}}/large_batch.json",),
        after=("hm",),
        pool="none",
    ),
    # Printed once, after all that is chosen is chosen.
    "stages_test": Result(
        (_table_of_stages("catalogue", "test"),), after=("catalogue",), seeds="0, 1", test=True
    ),
}
