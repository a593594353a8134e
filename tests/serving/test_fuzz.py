"""Nothing that a stranger sends makes the service fail, or grow."""

from __future__ import annotations

import random
import resource
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from starlette.testclient import TestClient

from beyond_text.serving.app import create_app
from beyond_text.serving.indexes import Indexes
from beyond_text.serving.limits import Limits
from beyond_text.serving.measures import Measures
from tests.benchmarks.hostile_requests import hostile_requests, memory

schemathesis = pytest.importorskip("schemathesis")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning")]
EXAMPLES = 60


@pytest.fixture
def measures() -> Measures:
    return Measures()


@pytest.fixture
def app(indexed: Path, measures: Measures) -> object:
    indexes = Indexes({"shop": indexed, "other": indexed}, measures)
    return create_app(indexes, measures, Limits(body=300_000))


def test_its_own_description_finds_no_fault(app: object) -> None:
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    checks = schemathesis.checks
    kept = [
        getattr(checks, name)
        for name in (
            "not_a_server_error",
            "status_code_conformance",
            "content_type_conformance",
            "response_schema_conformance",
            "response_headers_conformance",
        )
        if hasattr(checks, name)
    ]
    tried = 0
    for operation in schema.get_all_operations():
        operation = operation.ok()

        @hypothesis.seed(1)
        @hypothesis.settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(case=operation.as_strategy())
        def run(case: object) -> None:
            nonlocal tried
            tried += 1
            case.call_and_validate(checks=kept)  # type: ignore[attr-defined]

        run()
    assert tried > 3 * EXAMPLES


def test_hostile_bodies_and_pictures_are_answered_without_failure_or_growth(
    app: object, measures: Measures
) -> None:
    with TestClient(app, raise_server_exceptions=False) as client:  # type: ignore[arg-type]

        def send(requests: Iterator[dict[str, object]], count: int) -> None:
            for _, request in zip(range(count), requests, strict=False):
                answer = client.request(**request)  # type: ignore[arg-type]
                assert answer.status_code < 500, (request, answer.text)
                if answer.status_code >= 400 and request["method"] != "HEAD":
                    assert set(answer.json()) == {"status", "error"}, request

        requests = hostile_requests(random.Random(0))
        send(requests, 400)
        before = memory()
        send(requests, 600)
        assert memory() - before < 60 * 2**20
    assert b'errors_total{status="500"}' not in measures.text()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 0
