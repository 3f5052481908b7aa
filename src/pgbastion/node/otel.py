"""Sends spans by OpenTelemetry's SDK; imported only where traces are wanted."""

import hashlib
import logging
import threading
from collections.abc import Sequence
from typing import Final

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

from pgbastion._build import VERSION
from pgbastion.observe.logging import get_logger
from pgbastion.observe.phases import Span

QUEUE_MAX: Final = 512
DELAY_MS: Final = 500
CLOSE_S: Final = 2.0

log = get_logger("tracing")


class OtelSender:
    """Sends to one exporter."""

    def __init__(self, exporter: SpanExporter, node: str) -> None:
        # It tells of a collector that is down each time; we tell of a state once.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        self._ids = _Ids()
        self._provider = TracerProvider(
            resource=Resource.create(
                {
                    "service.name": "pgbastion",
                    "service.instance.id": node,
                    "service.version": VERSION,
                }
            ),
            id_generator=self._ids,
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                _Telling(exporter),
                max_queue_size=QUEUE_MAX,
                max_export_batch_size=QUEUE_MAX,
                schedule_delay_millis=DELAY_MS,
            )
        )
        self._tracer = self._provider.get_tracer("pgbastion", VERSION)

    def send(self, key: str, parent: Span | None, spans: tuple[Span, ...]) -> None:
        """Send spans of one change; they go out by a thread."""
        trace_id, root_id = ids_of(key)
        if parent is not None:
            self._ids.chosen = trace_id, root_id
            self._emit(parent, None)
            self._ids.chosen = None
        known = trace.SpanContext(
            trace_id=trace_id,
            span_id=root_id,
            is_remote=True,
            trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED),
        )
        for span in spans:
            self._emit(span, known)

    def _emit(self, span: Span, parent: trace.SpanContext | None) -> None:
        above = trace.INVALID_SPAN if parent is None else trace.NonRecordingSpan(parent)
        begun = self._tracer.start_span(
            span.name,
            context=trace.set_span_in_context(above),
            attributes=dict(span.attributes),
            start_time=span.begun_ns,
        )
        begun.end(end_time=span.ended_ns)

    def close(self) -> None:
        """Send what is left, in a bounded time.

        A collector that does not answer keeps the thread, and nobody else.
        """
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(CLOSE_S)


def ids_of(key: str) -> tuple[int, int]:
    """Return the numbers of a change's trace and of its root."""
    digest = hashlib.sha256(key.encode()).digest()
    return int.from_bytes(digest[:16]), int.from_bytes(digest[16:24])


class _Ids(RandomIdGenerator):
    """Random numbers, but for the root of a change."""

    def __init__(self) -> None:
        self.chosen: tuple[int, int] | None = None

    def generate_trace_id(self) -> int:
        return self.chosen[0] if self.chosen else super().generate_trace_id()

    def generate_span_id(self) -> int:
        return self.chosen[1] if self.chosen else super().generate_span_id()


class _Telling(SpanExporter):
    """Says in the log when a collector does not take spans, and when it does again."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            log.state("collector", "traces_sent")
        else:
            log.state("collector", "traces_not_sent", level=logging.WARNING)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)
