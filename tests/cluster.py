"""A Ray cluster on this machine, for tests; it is started once a process of pytest."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

STORE = 80 * 2**20


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """A cluster of one machine with two cores; tests are skipped where Ray is not installed."""
    pytest.importorskip("ray", reason="needs the extra `cluster`")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    started = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": STORE}
    )
    yield started
    started.shutdown()
