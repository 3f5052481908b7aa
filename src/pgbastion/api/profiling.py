"""The profile of the cluster, changed by a request."""

from pydantic import ConfigDict, Field

from pgbastion.api.bodies import Body
from pgbastion.api.ports import Commands, Outcome
from pgbastion.model.profile import Profile


class SetProfile(Body):
    """How long a lease is, and how quickly everything else follows."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"profile": "fast"}]})
    profile: Profile = Field(description="fast, normal or wide.", strict=False)


async def set_profile(commands: Commands, body: SetProfile) -> Outcome:
    """Change the cluster's profile; the primary stays, nobody is cut off."""
    return await commands.set_profile(body.profile)
