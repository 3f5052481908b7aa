"""How the cluster works, changed by a request: who confirms commits, the profile."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from pgbastion.api.bodies import Body
from pgbastion.api.ports import Commands, Outcome
from pgbastion.api.problems import bad_request
from pgbastion.control.apply_orders import SYNC_COUNT_MAX
from pgbastion.model.cluster import ReplicationMode
from pgbastion.model.profile import Profile


def _count(value: object) -> object:
    # A union's own words would be those of the library, once for each of its parts.
    if value is None or value == "auto":
        return value
    if type(value) is int and 0 <= value <= SYNC_COUNT_MAX:
        return value
    raise ValueError(f"has to be auto, or a whole number from 0 to {SYNC_COUNT_MAX}")


SyncCount = Annotated[int | Literal["auto"] | None, BeforeValidator(_count)]


class SetReplication(Body):
    """Who confirms a commit; what is left out stays as it is."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"mode": "quorum", "sync_count": "auto"}]}
    )
    mode: Literal["async", "sync", "quorum"] | None = Field(
        None, description="async (nobody), sync (the first by order) or quorum (any)."
    )
    sync_count: SyncCount = Field(
        None,
        description="How many standbys confirm; auto: half the PostgreSQL nodes.",
        json_schema_extra={"minimum": 0, "maximum": SYNC_COUNT_MAX},
    )
    strict: bool | None = Field(
        None, description="Whether commits rather wait than go on alone."
    )


async def set_replication(commands: Commands, body: SetReplication) -> Outcome:
    """Change who confirms commits; the set in force follows in safe steps."""
    if body.mode is None and body.sync_count is None and body.strict is None:
        raise bad_request("nothing to change is named", body.usage())
    return await commands.set_replication(
        mode=None if body.mode is None else ReplicationMode(body.mode),
        sync_count=body.sync_count,
        strict=body.strict,
    )


class SetProfile(Body):
    """How long a lease is, and how quickly everything else follows."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"profile": "fast"}]})
    profile: Profile = Field(description="fast, normal or wide.", strict=False)


async def set_profile(commands: Commands, body: SetProfile) -> Outcome:
    """Change the cluster's profile; the primary stays, nobody is cut off."""
    return await commands.set_profile(body.profile)
