"""The API against its own description, asked by a client that nobody here wrote."""

import warnings
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

with warnings.catch_warnings():
    # Its own imports warn of each other's deprecations.
    warnings.simplefilter("ignore")
    import schemathesis

from pgbastion.api.app import build_api
from pgbastion.api.checks import CHECKS
from pgbastion.api.endpoints import CHANGES, READS
from pgbastion.api.openapi import describe
from pgbastion.api.ports import Tokens
from pgbastion.observe.metrics import Metrics
from support.api_server import AUTHORISED, WRITE, FakeCommands
from support.snapshots import primary_snapshot

# Made by the run's seed; more of them in full.
EXAMPLES = 6

APPLICATION = build_api(
    primary_snapshot,
    FakeCommands(),
    tokens=lambda: Tokens(write=WRITE, read="read-token"),
    render_metrics=Metrics().render,
)
SCHEMA = schemathesis.openapi.from_dict(describe("1.2.3"))
SCHEMA.app = APPLICATION
# A failing check is described as 503; 500 is described nowhere, and so refused.
CHECKED = [
    schemathesis.checks.CHECKS.get_one("status_code_conformance"),
    schemathesis.checks.CHECKS.get_one("content_type_conformance"),
    schemathesis.checks.CHECKS.get_one("response_schema_conformance"),
    schemathesis.checks.CHECKS.get_one("negative_data_rejection"),
    schemathesis.checks.CHECKS.get_one("ignored_auth"),
]


@SCHEMA.exclude(method=["HEAD", "OPTIONS"]).exclude(path="/events").parametrize()
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_endpoint_does_what_its_description_says(case: Any) -> None:
    case.call_and_validate(headers=AUTHORISED, checks=CHECKED)


def test_every_endpoint_is_described() -> None:
    paths = describe("1.2.3")["paths"]

    for path in (*CHECKS, *READS):
        assert {"get", "head", "options"} <= set(paths[path])
        assert paths[path]["get"]["summary"]
    for method, path in CHANGES:
        assert paths[path][method.lower()]["summary"]


def test_every_operation_has_an_id_of_its_own() -> None:
    operations = [
        operation["operationId"]
        for methods in describe("1.2.3")["paths"].values()
        for operation in methods.values()
    ]

    assert len(set(operations)) == len(operations)


@pytest.mark.parametrize("path", [*CHECKS, "/health"])
def test_checks_are_described_as_open(path: str) -> None:
    assert describe("1.2.3")["paths"][path]["get"]["security"] == []
