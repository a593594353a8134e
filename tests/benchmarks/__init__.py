"""Commands that measure how fast the recipe is, beside its limits and its peers.

    python -m tests.benchmarks.throughput SHARDS
    python -m tests.benchmarks.search [RUN]

The peers are an optional extra, `pip install -e .[peers]`; one that is not installed is named.
"""
