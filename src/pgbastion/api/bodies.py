"""The bodies of requests: their models, and how one is read from the wire.

A body is JSON under any content type, at most `BODY_BYTES_MAX` long, and has arrived
within `BODY_S`.
"""

import asyncio
import json
import re
from http import HTTPStatus
from typing import Annotated, Any, Final, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from starlette.requests import Request

from pgbastion.api.problems import Problem, ProblemError, bad_request
from pgbastion.config.types import NODE_NAME, NodeName, Peer, parse_peer
from pgbastion.config.units import parse_duration_ms

BODY_BYTES_MAX: Final = 64 * 1024
BODY_S: Final = 5.0
# An answer names so many problems of a body; the rest shows once these are mended.
PROBLEMS_MAX: Final = 5

Model = TypeVar("Model", bound="Body")


def _peer(value: object) -> Peer:
    if not isinstance(value, str):
        raise ValueError("is not text")  # noqa: TRY004 - pydantic wants this one
    return parse_peer(value)


def _duration(value: object) -> int:
    if not isinstance(value, str):
        raise ValueError("is not a duration, write 250ms, 5s, 1m30s")  # noqa: TRY004
    return parse_duration_ms(value)


Name = Annotated[
    NodeName,
    WithJsonSchema({"type": "string", "pattern": f"^{NODE_NAME.pattern}$"}),
]
PeerAddress = Annotated[
    Peer,
    BeforeValidator(_peer),
    WithJsonSchema({"type": "string", "examples": ["10.0.1.2:8300"]}),
]
DurationMs = Annotated[
    int,
    BeforeValidator(_duration),
    WithJsonSchema({"type": "string", "examples": ["30s"]}),
]


class Part(BaseModel):
    """A JSON object; names that it does not know are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Body(Part):
    """What a request wants; with `dry_run` it is only tried."""

    dry_run: bool = Field(default=False, description="Check, and change nothing.")

    @classmethod
    def usage(cls) -> str:
        """Return what to send, for those whose body makes no sense."""
        examples = cls.model_json_schema().get("examples", [{}])
        return f"send for instance {json.dumps(examples[0])}"


class Nothing(Body):
    """Nothing is needed; an empty object will do."""


class Drain(Body):
    """How long sessions may go on."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"timeout": "30s"}]})

    timeout: DurationMs | None = None


def one_of(body: Model, *words: str) -> Model:
    """Return the body, in which these words say the same thing.

    Raises:
        ValueError: Two of them say different things.
    """
    said = {word: getattr(body, word) for word in words if getattr(body, word)}
    if len(set(said.values())) > 1:
        raise ValueError(f"{' and '.join(said)} name different nodes")
    return body


class OfPeer(Body):
    """A member of the Raft group."""

    id: Name | None = Field(None, description="The node's name.")
    name: Name | None = Field(None, description="The same.")

    @model_validator(mode="after")
    def _one_node(self) -> Self:
        return one_of(self, "id", "name")

    @property
    def node(self) -> str | None:
        """The name, under whichever key it came."""
        return self.id or self.name


class AddPeer(OfPeer):
    """Who is to be let in."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [{"required": ["id"]}, {"required": ["name"]}],
            "examples": [{"id": "node2", "address": "10.0.1.2:8300"}],
        }
    )
    address: PeerAddress = Field(description="HOST or HOST:PORT of its Raft port.")


class RemovePeer(OfPeer):
    """Who is to leave."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [{"required": ["id"]}, {"required": ["name"]}],
            "examples": [{"id": "node2"}],
        }
    )


class Transfer(Body):
    """Who is to lead the Raft group."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"to": "node2"}]})
    to: Name = Field(description="The new Raft leader.")


Scalar = str | int | float | bool
Value = Scalar | list[Scalar] | None
_PLAIN: Final = re.compile(r"[a-z0-9_][a-z0-9_]*")


class PostgresqlPart(Part):
    """Patroni's way to say it."""

    parameters: dict[str, Value] = Field(description="Names and values.")


class Settings(Body):
    """Settings of PostgreSQL; a list is a list setting, null takes one out."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"parameters": {"work_mem": "16MB"}}]}
    )
    parameters: dict[str, Value] = Field(
        default_factory=dict, description="Names and values."
    )
    postgresql: PostgresqlPart | None = Field(
        None, description="The same, as Patroni's tools send it."
    )
    version: int | None = Field(
        None, description="The version that was changed; refused if there is a newer."
    )

    @property
    def chosen(self) -> dict[str, str | None]:
        """The settings as PostgreSQL's files have them, by their lower-case names."""
        given = dict(self.parameters)
        if self.postgresql is not None:
            given |= self.postgresql.parameters
        return {name.lower(): _as_text(value) for name, value in given.items()}


def _as_text(value: Value) -> str | None:
    if value is None:
        return None
    if isinstance(value, list):
        # An item that is no plain name is quoted, as in search_path and libraries.
        return ", ".join(_item(str(_as_text(item))) for item in value)
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def _item(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else '"' + text.replace('"', '""') + '"'


async def read_body(request: Request, model: type[Model]) -> Model:
    """Return the request's body, checked; an empty one counts as an empty object.

    Raises:
        ProblemError: It is too long, too slow, or says something impossible.
    """
    raw = await _bytes(request)
    usage = model.usage()
    if request.url.query:
        # Whoever writes dry_run there must not have it done.
        raise bad_request("nothing is taken from the address after ?", usage)
    try:
        given = json.loads(raw) if raw.strip() else {}
    except (ValueError, RecursionError) as exc:
        raise bad_request("the body is no JSON", usage) from exc
    if not isinstance(given, dict):
        raise bad_request("the body is no JSON object", usage)
    try:
        return model.model_validate(given)
    except ValidationError as exc:
        raise bad_request(_said(exc, model), usage) from exc


def _said(exc: ValidationError, model: type[Model]) -> str:
    errors: list[Any] = exc.errors(include_url=False, include_input=False)
    keys = ", ".join(model.model_fields)
    said = []
    for error in errors[:PROBLEMS_MAX]:
        place = ".".join(map(str, error["loc"])) or "body"
        told = error["msg"].removeprefix("Value error, ")
        if error["type"] == "extra_forbidden" and len(error["loc"]) == 1:
            told = f"is unknown, there are {keys}"
        said.append(f"{place}: {told}")
    # A client's own words come back to it in part only.
    return "; ".join(said)[:500]


async def _bytes(request: Request) -> bytes:
    raw = b""
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.stream():
                raw += chunk
                if len(raw) > BODY_BYTES_MAX:
                    raise _too_large()
    except TimeoutError as exc:
        raise _too_slow() from exc
    return raw


def _too_large() -> ProblemError:
    return ProblemError(
        Problem(
            status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            code="body_too_large",
            message="the body is too large",
            remedy=f"send at most {BODY_BYTES_MAX} bytes",
        )
    )


def _too_slow() -> ProblemError:
    return ProblemError(
        Problem(
            status=HTTPStatus.REQUEST_TIMEOUT,
            code="body_too_slow",
            message="the body did not arrive in time",
            remedy=f"send it within {BODY_S:g} s",
        )
    )
