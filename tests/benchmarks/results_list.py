"""Names the tables of the README and of recipes/results, and the commands that make each.

A result's own folder of runs is {runs}/NAME. Settings are chosen on dev; a test split is measured
by `stages_test` alone.
"""

from __future__ import annotations

from dataclasses import replace

from tests.benchmarks.results import Result

EVALUATE = "{python} -m beyond_text.evaluate"
ABLATE = "{python} -m beyond_text.ablate"
SOUP = "{python} -m beyond_text.soup"
QUERIES = "{python} -m data_prep.queries"
SHARDS = "{python} -m data_prep.shards"
TRAIN = "{python} -m beyond_text.train recipes/base.yaml recipes/"
STAGE3 = f"{TRAIN}stage3.yaml"
BENCHMARK = "{python} -m tests.benchmarks."
FROZEN = (
    "evaluate_every=0 lr.text_encoder=0 lr.image_encoder=0 data.augment=false cache={runs}/cache"
)
# All that learn but uniecs, which takes many times as long as the others.
LEARNED = "bilinear concat gated moe block mutan lmf attended"
ASKED = "colour,pattern,product_type,audience,colour_family"
STAGES = ("stage1", "stage2", "stage3")
# Two towers with pairs, and UniECS.
SYSTEMS = ("stage3-pairs", "uniecs")
# The three shops of recipes/data/shops.yaml, where the results' own shards lie.
OF_SHOPS = {shop: f"{{runs}}/{shop}-0/shards" for shop in ("hm", "ikea")}
OF_SHOPS["myntra"] = "{runs}/myntra"
# A stage's settings for one model of them.
ON_SHOPS = " ".join(
    (
        f"recipes/data/shops.yaml data.dev={OF_SHOPS['hm']}",
        *(f"data.sources.{shop}.path={path}" for shop, path in OF_SHOPS.items()),
    )
)
# Fusions that one model of them was compared by, on frozen encoders.
OF_FROZEN = ("sum", "bilinear", "concat", "gated", "moe", "attended")
# Rows of recipes/ladder/shops.yaml.
MIXED = (
    "mix", "mix-sum", "mix-concat", "mix-gated", "mix-moe", "mix-attended",
    "mix-modality-dropout", "mix-replay", "mix-near-the-start",
)  # fmt: skip
FEW = tuple(f"few-{labels}" for labels in ("none", 37, 100))
LEFT_OUT = ("mix", *(f"{what}-{shop}" for what in ("without", "only") for shop in OF_SHOPS))


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


def _compared(
    shop: str, name: str, *words: str, of: tuple[str, ...] = STAGES, after: str = ""
) -> Result:
    """Returns a comparison of a shop's runs: of its three stages, or of others."""
    runs = " ".join(f"{{runs}}/{shop}-0/{run}" for run in of)
    given = " ".join(words)
    command = f"{EVALUATE} {runs} --tables {{runs}}/{shop}-0/shards {given} --out {{out}}/{name}"
    kind = words[0].removeprefix("--")
    files = ((f"{{out}}/{name}/{kind}.{ending}",) for ending in ("md", "png"))
    return Result((command,), *files, after=(after or shop,))


def _systems(shop: str, *words: str) -> dict[str, Result]:
    """Returns UniECS and two towers of a shop, from the same stage 2 and with the same pairs.

    They are compared on shoppers' queries, in the nine scenarios, and without pictures or texts.
    """
    own, pairs, name = f"{{runs}}/{shop}-0", f"{{runs}}/{shop}-pairs", f"{shop}_systems"
    given = (
        f"start={own}/stage2 data.sources.tables.path={own}/shards data.dev={own}/shards "
        f"data.sources.pairs.path={pairs} data.sources.pairs.weight=0.5 "
        "data.sources.pairs.queries_per_product=1 data.sources.pairs.namespace=tables"
    )
    two, uniecs = SYSTEMS
    trained = (
        f"{SHARDS} {pairs}.jsonl {pairs} --pictures {{tables}}/{shop}",
        " ".join((f"{STAGE3} run={own}/{two} {given} data.modality_dropout=0.3", *words)),
        " ".join((
            f"{TRAIN}uniecs.yaml run={own}/{uniecs} {given} steps=100 data.queries_per_product=4",
            *words,
        )),
    )  # fmt: skip
    of_pairs = "--scenarios", f"{pairs}.jsonl"
    return {
        name: Result(trained, after=(shop,), page=False),
        f"{name}_queries": _pays(
            f"{name}_queries", f"{own}/{two}", f"{own}/{uniecs}", (name,), shop
        ),
        f"{name}_scenarios": _compared(
            shop, f"{name}_scenarios", *of_pairs, of=SYSTEMS, after=name
        ),
        f"{name}_missing": _compared(
            shop, f"{name}_missing", "--missing", of=SYSTEMS, after=name
        ),
    }  # fmt: skip


def _ladder(
    name: str,
    options: str,
    seeds: str,
    settings: str,
    *,
    start: str,
    after: tuple[str, ...],
    before: tuple[str, ...] = (),
    picture: str = "chart",
) -> Result:
    """Returns a ladder with START's settings, after the commands `before`."""
    out = f"{{runs}}/{name}"
    command = f"{ABLATE} {options} --seeds {seeds} --start {start} --out {out} {settings}"
    made = (f"{out}/table.md",), (f"{out}/{picture}.png",)
    return Result((*before, command), *made, after=after, seeds=seeds.replace(" ", ", "))


def _of_stage2(
    shop: str, name: str, options: str, seeds: str, settings: str, before: tuple[str, ...] = ()
) -> Result:
    """Returns a ladder with the settings, or weights, of a shop's stage 2."""
    start = f"{{runs}}/{shop}-0/stage2"
    return _ladder(name, options, seeds, settings, start=start, after=(shop,), before=before)


def _labels(shop: str, grid: bool = False) -> Result:
    """Returns quality over the number of judged queries; the grid goes on from what is there."""
    name = f"{shop}_labels"
    return _ladder(
        name, "--labels 0 12 37 100 400 1500 all" + " --grid" * grid, "0 1", "evaluate_every=0",
        start=f"{{runs}}/{shop}-0/stage2", after=(name if grid else shop,), picture="labels",
    )  # fmt: skip


def _labels_frozen(shop: str, **others: float) -> Result:
    """Returns the same for two rows on frozen encoders; stage 1 sees other shops, by weight."""
    own = f"{{runs}}/{shop}-0"
    further = " ".join(
        f"data.sources.{other}.path={OF_SHOPS[other]} data.sources.{other}.weight={weight} "
        f"data.sources.{other}.losses=[text_image]"
        for other, weight in others.items()
    )
    return _ladder(
        f"{shop}_labels_frozen",
        "--labels 0 12 37 100 400 all --only full stage3-only",
        "0 1",
        f"{FROZEN} data.sources.tables.weight=1 {further}",
        start=f"{own}/untouched",
        after=tuple(OF_SHOPS),
        before=(f"make untouched TABLES={{tables}}/{shop} RUNS={own}",),
        picture="labels",
    )


def _asked(name: str, fields: str, attributes: str) -> tuple[str, str]:
    """Returns the commands that make queries of fields of H&M's products, and their shards."""
    return (
        f"{QUERIES} {{tables}}/hm {{runs}}/{name}-tables --fields {fields} "
        f"--attributes {attributes}",
        f"{SHARDS} {{runs}}/{name}-tables {{runs}}/{name}-shards",
    )


def _frozen(name: str, start: str, *before: str) -> Result:
    """Returns fusions that are trained to their end on H&M, on the frozen encoders of a run."""
    return _ladder(
        name, f"--fusion sum {LEARNED} --grid recipes/ladder/fusion_grid.yaml", "0 1 2",
        f"steps=2000 budget=1 {FROZEN}", start=f"{{runs}}/hm-0/{start}", after=("hm",),
        before=before,
    )  # fmt: skip


def _soup(name: str, words: str, others: tuple[str, ...], after: tuple[str, ...]) -> Result:
    """Returns mixtures of weights, measured on other shops as well."""
    shops = " ".join(OF_SHOPS.get(shop, f"{{runs}}/{shop}-0/shards") for shop in others)
    command = f"{SOUP} {words} --others {shops} --out {{runs}}/{name}"
    made = (f"{{runs}}/{name}/soup.md",), (f"{{runs}}/{name}/soup.png",)
    return Result((command,), *made, after=after)


def _others(name: str, rows: tuple[str, ...], stage: str = "", ladder: str = "shops_mix") -> Result:
    """Returns rows of a ladder of shops, or a stage of each, measured on each of the shops."""
    runs = " ".join(f"{{runs}}/{ladder}/{row}-seed0{stage}" for row in rows)
    hm, *others = OF_SHOPS.values()
    command = f"{EVALUATE} {runs} --tables {hm} --others {' '.join(others)} --out {{out}}/{name}"
    return Result((command,), (f"{{out}}/{name}/shops.md",), after=(ladder,))


def _pays(
    name: str, one: str, other: str, after: tuple[str, ...], shop: str = "hm", seeds: str = "0"
) -> Result:
    """Returns on which of a shop's queries a run, or a row's runs, beats another."""
    command = f"{BENCHMARK}fusion_pays {one} {other} --shards {{runs}}/{shop}-0/shards"
    return Result(
        (f"{command} --out {{out}}/{name}",), (f"{{out}}/{name}/pays.md",), after=after, seeds=seeds
    )


def _fusion_pays(name: str, fusion: str, start: str) -> Result:
    """Returns on which of H&M's queries a fusion beats the plain sum, both with frozen encoders."""
    rows = (f"{{runs}}/{start}/{row}" for row in ("sum", fusion))
    result = _pays(name, *rows, (start,), seeds="0, 1, 2")
    fields = "{tables}/hm/attributes.csv"
    commands = tuple(f"{command} --fields {fields}" for command in result.commands)
    return replace(result, commands=commands, needs=("hm/attributes.csv",))


RESULTS: dict[str, Result] = {
    # Runs that tables are made of.
    "catalogue": Result(tuple(_stages("catalogue", seed=seed) for seed in (0, 1)), page=False),
    "hm": _shop("hm"),
    "ikea": _shop("ikea"),
    "myntra": Result(
        (
            f"{QUERIES} {{tables}}/myntra {{runs}}/myntra-tables "
            "--fields {tables}/myntra/attributes.csv "
            "--attributes colour,product_type,audience,usage",
            f"{SHARDS} {{runs}}/myntra-tables {{runs}}/myntra",
        ),
        needs=("myntra", "myntra/attributes.csv"),
        page=False,
    ),
    "mix": Result(
        (f"{STAGE3} {ON_SHOPS} run={{runs}}/shops_stage3",),
        after=tuple(OF_SHOPS),
        page=False,
    ),
    # The three stages.
    "stages": Result((_table_of_stages("catalogue"),), after=("catalogue",), seeds="0, 1"),
    "hm_stages": Result((_table_of_stages("hm"),), after=("hm",), seeds="0, 1"),
    "ikea_stages": Result((_table_of_stages("ikea"),), after=("ikea",), seeds="0, 1"),
    # Which fusion, and which stages?
    "hm_fusion": _of_stage2(
        "hm",
        "hm_fusion",
        f"--fusion {LEARNED} sum text image",
        "0 1 2",
        "budget=0.25 evaluate_every=0",
    ),
    "hm_fusion_frozen": _of_stage2(
        "hm", "hm_fusion_frozen", f"--fusion {LEARNED} sum", "0 1", f"budget=0.5 {FROZEN}"
    ),
    "hm_curriculum": _of_stage2(
        "hm", "hm_curriculum", "--curriculum", "0 1", "budget=0.35 evaluate_every=0"
    ),
    "hm_attempts": _of_stage2(
        "hm",
        "hm_attempts",
        "--ladder recipes/ladder/attempts.yaml",
        "0",
        "budget=0.4 evaluate_every=0",
    ),
    # Fusions to their end on frozen encoders: untouched, of stage 2, and of a stage 3 whose fusion
    # has nothing to learn. On which queries does it pay?
    "hm_frozen_untouched": _frozen(
        "hm_frozen_untouched", "untouched", "make untouched TABLES={tables}/hm RUNS={runs}/hm-0"
    ),
    "hm_frozen_stage2": _frozen("hm_frozen_stage2", "stage2"),
    "hm_frozen_stage3": _frozen(
        "hm_frozen_stage3",
        "stage3-sum",
        f"{STAGE3} start={{runs}}/hm-0/stage2 run={{runs}}/hm-0/stage3-sum fusion=sum lr.fusion=0 "
        f"data.sources.tables.path={OF_SHOPS['hm']} data.dev={OF_SHOPS['hm']}",
    ),
    "hm_pays_attended": _fusion_pays("hm_pays_attended", "attended", "hm_frozen_stage2"),
    "hm_pays_gated": _fusion_pays("hm_pays_gated", "gated", "hm_frozen_stage2"),
    # With everything trained, for the whole budget.
    "hm_fusion_whole": _of_stage2(
        "hm", "hm_fusion_whole", "--fusion sum gated attended", "0 1", "evaluate_every=0"
    ),
    # How much do judged queries bring? Then each row by its own best settings.
    **{f"{shop}_labels": _labels(shop) for shop in ("catalogue", "hm", "ikea")},
    **{f"{shop}_labels_grid": _labels(shop, grid=True) for shop in ("catalogue", "hm", "ikea")},
    # The same on frozen encoders, where stage 1 sees the pictures of other shops, too.
    "hm_labels_frozen": _labels_frozen("hm", myntra=2, ikea=0.3),
    "ikea_labels_frozen": _labels_frozen("ikea", myntra=2, hm=1),
    # Labels for free, of a shop's fields; and of tags, by a model of other shops' queries.
    "hm_fields": replace(
        _of_stage2(
            "hm",
            "hm_fields",
            "--curriculum recipes/ladder/free.yaml",
            "0 1",
            "data.sources.free.path={runs}/hm_fields-shards data.sources.free.namespace=tables "
            "evaluate_every=0",
            before=_asked("hm_fields", "{tables}/hm/attributes.csv", ASKED),
        ),
        needs=("hm/attributes.csv",),
    ),
    "hm_tags": _ladder(
        "hm_tags",
        "--curriculum recipes/ladder/tags.yaml",
        "0",
        "data.sources.tagged.path={runs}/hm_tags-shards data.sources.tagged.namespace=hm "
        "evaluate_every=0",
        start="{runs}/shops_others",
        after=tuple(OF_SHOPS),
        before=(
            f"{STAGE3} {ON_SHOPS} run={{runs}}/shops_others steps=240 data.sources.hm.weight=0 "
            "data.sources.ikea.weight=0.5",
            "{python} -m beyond_text.tag {runs}/shops_others {tables}/hm {runs}/hm-tags",
            *_asked("hm_tags", "{runs}/hm-tags/attributes.csv", "colour,product_type"),
        ),
    ),
    # Hard negatives against categories and memory; weights mixed with the start, and over seeds.
    "hm_negatives": _ladder(
        "hm_negatives",
        "--ladder recipes/ladder/negatives.yaml",
        "0 1",
        "evaluate_every=0",
        start="{runs}/hm-0/stage2",
        after=("hm",),
        before=("{python} -m beyond_text.mine {runs}/hm-0/stage3",),
    ),
    "hm_soup": _soup(
        "hm_soup",
        "{runs}/hm-0/stage3 untouched --alpha 0 0.25 0.5 0.75 1",
        ("ikea", "catalogue"),
        ("hm", "ikea", "catalogue"),
    ),
    "hm_soup_seeds": replace(
        _soup(
            "hm_soup_seeds",
            "{runs}/hm-0/stage3 {runs}/hm-1/stage3 --average",
            ("ikea", "catalogue"),
            ("hm", "ikea", "catalogue"),
        ),
        seeds="0, 1",
    ),
    # A teacher, the average of two seeds; and against stage 3 without one.
    "hm_teacher": _ladder(
        "hm_teacher",
        "--ladder recipes/ladder/teacher.yaml",
        "0 1",
        "teacher={runs}/hm_average evaluate_every=0",
        start="{runs}/hm-0/stage2",
        after=("hm",),
        before=(
            f"{SOUP} {{runs}}/hm-0/stage3 {{runs}}/hm-1/stage3 --average --out {{runs}}/hm_average",
        ),
    ),
    "hm_teacher_pays": _pays(
        "hm_teacher_pays",
        "{runs}/hm_negatives/recipe",
        "{runs}/hm_teacher/taught",
        ("hm_negatives", "hm_teacher"),
        seeds="0, 1",
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
    # One model of many shops: fusions, and what keeps it good on each; with one shop left out.
    "shops_mix": _ladder(
        "shops_mix",
        "--curriculum recipes/ladder/shops.yaml",
        "0",
        "evaluate_every=0",
        start="{runs}/shops_stage3",
        after=("mix",),
    ),
    "shops_mixed": _others("shops_mixed", MIXED),
    "shops_left_out": _others("shops_left_out", LEFT_OUT),
    "shops_few": _others("shops_few", FEW, "/2-stage3"),
    "shops_fusion_frozen": _ladder(
        "shops_fusion_frozen",
        f"--fusion {' '.join(OF_FROZEN)}",
        "0",
        f"steps=1000 {FROZEN}",
        start="{runs}/shops_untouched",
        after=tuple(OF_SHOPS),
        before=(f"{TRAIN}untouched.yaml {ON_SHOPS} run={{runs}}/shops_untouched",),
    ),
    "shops_fusion_frozen_others": _others(
        "shops_fusion_frozen_others", OF_FROZEN, ladder="shops_fusion_frozen"
    ),
    "shops_soup": _soup(
        "shops_soup",
        "{runs}/shops_mix/mix-seed0 untouched --alpha 0 0.25 0.5 0.75 1",
        ("ikea", "myntra"),
        ("shops_mix",),
    ),
    "hm_scenarios": _compared("hm", "hm_scenarios", "--scenarios", "{runs}/hm-pairs.jsonl"),
    "ikea_scenarios": _compared("ikea", "ikea_scenarios", "--scenarios", "{runs}/ikea-pairs.jsonl"),
    "hm_missing": _compared("hm", "hm_missing", "--missing"),
    "ikea_missing": _compared("ikea", "ikea_missing", "--missing"),
    # UniECS against two towers; IKEA's are shorter.
    **_systems("hm"),
    **_systems("ikea", "budget=0.6"),
    "hybrid": Result(
        (
            "{python} -m data_prep.catalogue {runs}/lookups --lookups",
            f"{EVALUATE} {{runs}}/catalogue-0/stage3 --tables {{runs}}/lookups --hybrid "
            "--out {out}/hybrid",
        ),
        ("{out}/hybrid/hybrid.md",),
        ("{out}/hybrid/hybrid.png",),
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
        (
            f"{BENCHMARK}search {{runs}}/hm-0/stage3 --shards {{runs}}/hm-0/shards "
            "--out {out}/search",
        ),
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
