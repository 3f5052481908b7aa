"""The section of traces. Pure."""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from pgbastion.config.section import Section


def _collector(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("is not the address of a collector: http://HOST:4318")
    return value.rstrip("/")


class TracingSection(Section):
    """OpenTelemetry traces of each change of the primary."""

    enabled: bool = Field(
        default=False,
        description="Send a trace of each change of the primary; needs the extra "
        "tracing (pip install 'pgbastion[tracing]').",
    )
    endpoint: Annotated[str, AfterValidator(_collector)] | None = Field(
        None,
        examples=["http://collector:4318"],
        description="The collector, which takes OTLP over HTTP. Without it the "
        "OTEL_EXPORTER_OTLP_ variables of the environment count.",
    )
