"""The OpenAPI description, made from the table of endpoints and the shapes of answers.

Source: OpenAPI Specification 3.1.0.
"""

import typing
from collections.abc import Callable, Mapping
from typing import Any, Final

from pydantic import TypeAdapter
from pydantic.json_schema import models_json_schema

from pgbastion.api.access import ALWAYS_OPEN
from pgbastion.api.bodies import Body
from pgbastion.api.checks import CHECKS
from pgbastion.api.endpoints import CHANGES, READS, Change
from pgbastion.api.operations import (
    LONG,
    ONE,
    AcceptedAnswer,
    OperationFacts,
    operation,
)
from pgbastion.api.shapes import ErrorAnswer, HealthAnswer, OkAnswer

Json = dict[str, Any]

REFERENCES: Final = "#/components/schemas/{model}"
# The methods with which load balancers ask.
READING: Final = ("get", "head", "options")
_CHECK_PARAMETERS: Final = [
    {
        "name": "lag",
        "in": "query",
        "description": "A standby that is further behind fails: 100, 1MB, 16MiB.",
        "schema": {"type": "string", "examples": ["1MB"]},
    },
    {
        "name": "replication_state",
        "in": "query",
        "description": "A standby in another state of replication fails.",
        "schema": {"type": "string", "enum": ["streaming", "in archive recovery"]},
    },
]
_REFUSALS: Final = {
    "400": "The request says something impossible.",
    "401": "The token is missing or wrong.",
    "403": "The token is for reading only, or the request comes from a web page.",
    "409": "It was not carried out, and nothing has changed.",
    "413": "The body is too large.",
    "429": "This client asks too often.",
    "504": "Nobody can tell yet whether it took effect.",
}


def describe(version: str) -> Json:
    """Return the description of the API of this release."""
    schemas = _Schemas()
    paths: dict[str, Json] = {}
    for path, check in CHECKS.items():
        paths[path] = _reading(path, check, schemas.of(HealthAnswer), schemas)
        for method in READING:
            operation = paths[path][method]
            operation["parameters"] = _CHECK_PARAMETERS
            operation["responses"]["400"] = schemas.problem(_REFUSALS["400"])
            operation["responses"]["503"] = schemas.problem("The check fails.")
    for path, answer in READS.items():
        shape = typing.get_type_hints(answer)["return"]
        paths.setdefault(path, {}).update(
            _reading(path, answer, schemas.of(shape), schemas)
        )
    for path in ALWAYS_OPEN:
        for method in READING:
            paths[path][method]["security"] = []
    for (method, path), change in CHANGES.items():
        paths.setdefault(path, {})[method.lower()] = _changing(
            method, path, change, schemas
        )
    paths[ONE] = _operation(schemas)
    paths["/metrics"] = _other(
        "metrics", "Metrics in Prometheus' text format.", "text/plain", schemas
    )
    paths["/events"] = _other(
        "events",
        "What happens, as server-sent events; Last-Event-ID, or ?after=, goes on from "
        "an event.",
        "text/event-stream",
        schemas,
    )
    paths["/openapi.json"] = _other(
        "description", "This description.", "application/json", schemas
    )
    return {
        "openapi": "3.1.0",
        "info": {"title": "pgbastion", "version": version},
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": schemas.all,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def body_of(change: Change) -> type[Body]:
    """Return the model of the body that an endpoint takes."""
    model: type[Body] = typing.get_type_hints(change)["body"]
    return model


def summary(function: Callable[..., object]) -> str:
    """Return what an endpoint is for: the first paragraph of its docstring."""
    return " ".join((function.__doc__ or "").partition("\n\n")[0].split())


class _Schemas:
    """Collects the schemas that the description refers to."""

    def __init__(self) -> None:
        self.all: dict[str, Json] = {}
        self._error = self.of(ErrorAnswer)

    def of(self, shape: Any) -> Json:
        """Return the schema of an answer."""
        schema = TypeAdapter(shape).json_schema(
            ref_template=REFERENCES, mode="serialization"
        )
        self.all |= schema.pop("$defs", {})
        return schema

    def body(self, model: type[Body]) -> Json:
        """Return the schema of a body."""
        _, defined = models_json_schema(
            [(model, "validation")], ref_template=REFERENCES
        )
        self.all |= defined["$defs"]
        return {"$ref": REFERENCES.format(model=model.__name__)}

    def problem(self, about: str) -> Json:
        """Return the response of an error."""
        content = {"application/json": {"schema": self._error}}
        return {"description": about, "content": content}


def _reading(
    path: str,
    function: Callable[..., object],
    shape: Mapping[str, Any],
    known: _Schemas,
) -> Json:
    content = {"application/json": {"schema": shape}}
    answered = {
        "200": {"description": "Answered from memory.", "content": content},
        "401": known.problem(_REFUSALS["401"]),
        "429": known.problem(_REFUSALS["429"]),
    }
    # HEAD answers with the same status and without the text.
    silent = {code: {"description": r["description"]} for code, r in answered.items()}
    return {
        method: {
            "operationId": _id(method, path),
            "summary": summary(function),
            "responses": dict(silent if method == "head" else answered),
        }
        for method in READING
    }


def _changing(method: str, path: str, change: Change, known: _Schemas) -> Json:
    content = {"application/json": {"schema": known.of(OkAnswer)}}
    accepted = {"application/json": {"schema": known.of(AcceptedAnswer)}}
    goes_on = {"202": {"description": "It goes on; follow it.", "content": accepted}}
    return {
        "operationId": _id(method.lower(), path),
        "summary": summary(change),
        "requestBody": {
            "content": {"application/json": {"schema": known.body(body_of(change))}}
        },
        "responses": {
            "200": {"description": "It is done.", "content": content},
            **(goes_on if method == "POST" and path in LONG else {}),
            **{code: known.problem(about) for code, about in _REFUSALS.items()},
        },
    }


def _operation(known: _Schemas) -> Json:
    described = _reading(ONE, operation, known.of(OperationFacts), known)
    wanted = {"name": "id", "in": "path", "required": True}
    for method, one in described.items():
        one["operationId"] = f"{method}_operation"
        one["parameters"] = [{**wanted, "schema": {"type": "string"}}]
        one["responses"]["404"] = known.problem("This node knows no such operation.")
    return described


def _other(name: str, about: str, media: str, known: _Schemas) -> Json:
    content: Json = {media: {"schema": {}}}
    return {
        "get": {
            "operationId": name,
            "summary": about,
            "responses": {
                "200": {"description": about, "content": content},
                "401": known.problem(_REFUSALS["401"]),
                "429": known.problem(_REFUSALS["429"]),
            },
        }
    }


def _id(method: str, path: str) -> str:
    return method + path.replace("/", "_").replace("-", "_")
