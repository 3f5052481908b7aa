"""The bodies of requests that change the primary, or who may become it."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_interface
from typing import Annotated, Final, Self

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)

from pgbastion.api.bodies import Body, DurationMs, Name, one_of
from pgbastion.api.ports import When
from pgbastion.clock import wall_time
from pgbastion.config.units import parse_duration_ms
from pgbastion.model.ids import NodeId

WINDOW_MS: Final = 30_000
"""How long after its time a scheduled switchover may still begin."""


def _instant(value: object) -> datetime:
    if not isinstance(value, str):
        raise ValueError("is not a time")  # noqa: TRY004 - pydantic wants this one
    if value.startswith("+"):
        wait_ms = parse_duration_ms(value[1:])
        return wall_time() + timedelta(milliseconds=wait_ms)
    try:
        instant = datetime.fromisoformat(value)
    except ValueError as exc:
        raise ValueError("is not a time such as 2030-01-31T03:00:00Z or +10m") from exc
    if instant.tzinfo is None:
        raise ValueError("lacks its time zone, for instance Z or +01:00")
    try:
        return instant.astimezone(UTC)
    except OverflowError as exc:
        raise ValueError("is beyond the calendar") from exc


Instant = Annotated[
    datetime,
    BeforeValidator(_instant),
    WithJsonSchema({"type": "string", "examples": ["2030-01-31T03:00:00Z", "+10m"]}),
]


def _address(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("is not text")  # noqa: TRY004 - pydantic wants this one
    return str(ip_interface(value).ip)


Address = Annotated[
    str,
    BeforeValidator(_address),
    WithJsonSchema({"type": "string", "examples": ["10.0.1.101", "fd00::101"]}),
]


class OfNode(Body):
    """A node, by any of its words; Patroni's tools say ``candidate``."""

    to: Name | None = Field(None, description="The node.")
    target: Name | None = Field(None, description="The same.")
    candidate: Name | None = Field(None, description="The same.")
    node: Name | None = Field(None, description="The same.")

    @model_validator(mode="after")
    def _one_node(self) -> Self:
        return one_of(self, "to", "target", "candidate", "node")

    @property
    def named(self) -> NodeId | None:
        """The node, under whichever key it came; None: none is named."""
        name = self.to or self.target or self.candidate or self.node
        return NodeId(name) if name else None


class OfPrimary(OfNode):
    """Who is to be the primary, and how."""

    leader: Name | None = Field(
        None, description="The primary that is meant; refused if another one is."
    )
    drain: DurationMs | None = Field(
        None, description="How long open transactions may go on."
    )

    @property
    def of(self) -> NodeId | None:
        """The primary that is meant; None: whichever there is."""
        return NodeId(self.leader) if self.leader else None


class SwitchOver(OfPrimary):
    """Who is to be the primary, at once or later."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"to": "node2"}, {}, {"at": "+10m"}]}
    )
    at: Instant | None = Field(None, description="When, with a time zone, or from now.")
    scheduled_at: Instant | None = Field(None, description="The same.")
    within: DurationMs | None = Field(
        None, gt=0, description="How long after that it may still begin; usually 30s."
    )
    cancel: bool = Field(
        default=False, description="Drop what is scheduled or has not begun."
    )
    id: str | None = Field(None, max_length=64, description="Drop only this one.")

    @model_validator(mode="after")
    def _window_of_a_time(self) -> Self:
        if self.within is not None and self.when is None:
            raise ValueError(
                "within says how long after at it may begin: at is missing"
            )
        return self

    @property
    def when(self) -> When | None:
        """The time for later; None: at once."""
        due = self.at or self.scheduled_at
        if due is None:
            return None
        valid_ms = WINDOW_MS if self.within is None else self.within
        return When(due=due, valid_ms=valid_ms)


class Cancel(Body):
    """What is to be dropped."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}]})
    id: str | None = Field(None, max_length=64, description="Drop only this one.")


class FailOver(OfPrimary):
    """Who is to be the primary, also without a living one."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"to": "node2"}]})
    force: bool = Field(
        default=False, description="Also where commits could be lost; vouches for it."
    )


class Fence(OfNode):
    """Which node is to be kept from the primary role."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"node": "node2"}]})
    force: bool = Field(
        default=False, description="A primary stops at once; writes may stop."
    )
    drain: DurationMs | None = Field(
        None, description="How long a primary's open transactions may go on."
    )


class Restart(OfNode):
    """Whose PostgreSQL is to be restarted."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"node": "node2"}]})
    pending: bool = Field(
        default=False, description="Only if a setting waits for a restart."
    )
    drain: DurationMs | None = Field(
        None, description="How long a primary's open transactions may go on."
    )


class Reinit(OfNode):
    """Whose data directory is to be replaced by a copy of the primary's."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"node": "node2"}]})


class MoveAddress(OfNode):
    """Which address for replicas is to be at another node."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"address": "10.0.1.101", "to": "node3"}]}
    )
    address: Address = Field(description="The address.")


class Unfence(OfNode):
    """Which node may take part again."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"node": "node2"}]})
