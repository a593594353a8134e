"""A Ray cluster on this machine, for tests; it is started once a process of pytest."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

STORE = 80 * 2**20
# On a busy machine a process of Ray may answer late: it is not dead for that.
PATIENT = {"health_check_timeout_ms": 60_000}


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """A cluster of one machine with two cores; tests are skipped where Ray is not installed."""
    pytest.importorskip("ray", reason="needs the extra `cluster`")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 2, "object_store_memory": STORE, "_system_config": PATIENT}
    started = Cluster(initialize_head=True, head_node_args=head)
    yield started
    started.shutdown()
