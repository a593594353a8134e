"""Counts requests and times their parts, for Prometheus."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

SECONDS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


class Measures:
    """The metrics of one service; each has a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Histogram(
            "request_seconds",
            "From a request's head to the end of its answer.",
            ("route", "status"),
            buckets=SECONDS,
            registry=registry,
        )
        self.encoding = Histogram(
            "encoding_seconds", "Encoding a batch.", buckets=SECONDS, registry=registry
        )
        self.searching = Histogram(
            "searching_seconds", "Searching for a batch.", buckets=SECONDS, registry=registry
        )
        self.batches = Histogram(
            "batch_queries", "Queries in a batch.", buckets=BATCHES, registry=registry
        )
        self.errors = Counter(
            "errors", "Answers of status 400 and above.", ("status",), registry=registry
        )
        self.reloads = Counter(
            "reloads",
            "Updated indexes that were opened, or were not.",
            ("index", "outcome"),
            registry=registry,
        )
        self.products = Gauge("products", "Products of an index.", ("index",), registry=registry)

    def text(self) -> bytes:
        """Returns the metrics in Prometheus's text format."""
        return generate_latest(self.registry)
