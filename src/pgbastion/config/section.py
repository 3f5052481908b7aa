"""What every section of the file has in common."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of the file; keys that it does not know are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True
    )
