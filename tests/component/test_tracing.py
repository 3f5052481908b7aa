"""Traces of a change of the primary: what the nodes send, and nothing when off."""

import ast
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import pgbastion
from pgbastion.config.tracing import TracingSection
from pgbastion.model.actions import Decision
from pgbastion.model.ids import Epoch, NodeId
from pgbastion.model.reasons import Reason
from pgbastion.model.report import Outage
from pgbastion.node.otel import OtelSender, ids_of
from pgbastion.node.tracing import Traces, Tracing, open_sender
from pgbastion.observe.phases import DETECTION, FIRST_SESSION, PHASES, Span

MS = 1_000_000
SOON_S = 20.0
SOURCE = Path(pgbastion.__file__).parent
EXPORTER = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
SPAN = Span(name="survey", begun_ns=1 * MS, ended_ns=2 * MS)


class Node:
    """What one node tells of the change to epoch 7."""

    def __init__(self, name: str, exporter: SpanExporter, *, leads: bool) -> None:
        self.now_ms = 0
        self.sender = OtelSender(exporter, name)
        self.tracing = Tracing(
            self.sender,
            cluster=lambda: "lab/1",
            leads=lambda: leads,
            now_ns=lambda: self.now_ms * MS,
        )

    def decides(self, at_ms: int, reason: Reason) -> None:
        self.now_ms = at_ms
        self.tracing.decided("node", Decision(reason))

    def sees_the_end(self, at_ms: int, gap_ms: int) -> None:
        self.now_ms = at_ms
        self.tracing.ended(Outage(epoch=Epoch(7), gap_ms=gap_ms, sessions=0))


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def test_what_the_nodes_send_is_one_trace() -> None:
    exporters = InMemorySpanExporter(), InMemorySpanExporter()
    old = Node("n1", exporters[0], leads=False)
    new = Node("n2", exporters[1], leads=True)
    old.decides(100, Reason.CRASHED_STANDBY_READY)
    old.decides(120, Reason.RELEASING)
    old.decides(130, Reason.NO_PRIMARY_TO_FOLLOW)
    new.decides(140, Reason.PROMOTING)
    new.sees_the_end(300, gap_ms=200)
    old.sees_the_end(310, gap_ms=215)
    new.now_ms = 320
    new.tracing.answered()
    new.tracing.answered()
    for node in (old, new):
        node.tracing.close()

    spans = [span for each in exporters for span in each.get_finished_spans()]
    (root,) = [span for span in spans if span.parent is None]
    trace_id, root_id = ids_of("lab/1/7")
    assert {span.context.trace_id for span in spans if span.context} == {trace_id}
    assert root.context is not None
    assert root.context.span_id == root_id
    assert {s.parent.span_id for s in spans if s.parent is not None} == {root_id}
    assert (root.start_time, root.end_time) == (100 * MS, 300 * MS)
    assert attributes(root) == {"epoch": 7, "gap_ms": 200}

    told = {
        (s.resource.attributes["service.instance.id"], s.name, s.start_time, s.end_time)
        for s in spans
        if s.parent is not None
    }
    assert told == {
        ("n1", DETECTION, 95 * MS, 100 * MS),
        ("n1", "decision", 100 * MS, 120 * MS),
        ("n1", "release", 120 * MS, 130 * MS),
        ("n2", DETECTION, 100 * MS, 140 * MS),
        ("n2", "promotion", 140 * MS, 300 * MS),
        ("n2", FIRST_SESSION, 300 * MS, 320 * MS),
    }


def test_another_epoch_is_another_trace() -> None:
    assert ids_of("lab/1/7") != ids_of("lab/1/8")
    assert ids_of("lab/1/7") != ids_of("lab/2/7")


def test_a_session_without_a_change_before_it_tells_nothing() -> None:
    exporter = InMemorySpanExporter()
    node = Node("n1", exporter, leads=True)
    node.tracing.answered()
    node.tracing.close()

    assert exporter.get_finished_spans() == ()


def test_each_reason_is_of_one_phase() -> None:
    found = [reason for reasons in PHASES.values() for reason in reasons]

    assert len(found) == len(set(found))


# A collector


class Collector(BaseHTTPRequestHandler):
    """Takes traces as OTLP over HTTP."""

    taken: ClassVar[list[ExportTraceServiceRequest]] = []
    paths: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        self.paths.append(self.path)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.taken.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def collecting() -> Iterator[str]:
    Collector.taken.clear()
    Collector.paths.clear()
    server = HTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_spans_reach_a_collector_over_http() -> None:
    with collecting() as url:
        section = TracingSection(enabled=True, endpoint=url + "/")
        sender = open_sender(section, "n1")
        assert sender is not None
        sender.send("k", SPAN, (SPAN,))
        sender.close()

    assert set(Collector.paths) == {"/v1/traces"}
    spans = [
        span
        for request in Collector.taken
        for of_resource in request.resource_spans
        for of_scope in of_resource.scope_spans
        for span in of_scope.spans
    ]
    assert [span.name for span in spans] == ["survey", "survey"]
    assert spans[1].parent_span_id == spans[0].span_id
    assert (spans[0].start_time_unix_nano, spans[0].end_time_unix_nano) == (
        1 * MS,
        2 * MS,
    )


class Sender:
    """Notes where it was to send, and whether it was closed."""

    def __init__(self, section: TracingSection) -> None:
        self.section, self.closed = section, False

    def close(self) -> None:
        self.closed = True


def test_another_collector_is_told_after_a_reload(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Sender] = []

    def open_one(section: TracingSection, _: str) -> Sender | None:
        made.append(Sender(section))
        return made[-1] if section.enabled else None

    monkeypatch.setattr("pgbastion.node.tracing.open_sender", open_one)
    loop = SimpleNamespace(on_decided=None, outages=SimpleNamespace(on_end=None))
    proxy = SimpleNamespace(on_answer=lambda *_: None)
    traces = Traces(NodeId("n1"), host=None, loop=loop, proxy=proxy)  # type: ignore[arg-type]
    sections = [
        TracingSection(enabled=True, endpoint=f"http://c{number}:4318")
        for number in (1, 2)
    ]
    for section in (sections[0], sections[0], sections[1], TracingSection()):
        traces.reconfigure(section)

    assert [sender.section for sender in made] == [*sections, TracingSection()]
    assert [sender.closed for sender in made] == [True, True, False]
    assert loop.on_decided is None


class Stuck(SpanExporter):
    """A collector that answers nothing until it is let go."""

    def __init__(self) -> None:
        self.asked, self.free = threading.Event(), threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        del spans
        self.asked.set()
        self.free.wait(SOON_S)
        return SpanExportResult.FAILURE


def test_a_collector_that_hangs_keeps_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pgbastion.node.otel.CLOSE_S", 0.05)
    exporter = Stuck()
    sender = OtelSender(exporter, "n1")
    sender.send("k", SPAN, (SPAN,))
    assert exporter.asked.wait(SOON_S)
    # Both return although the exporter does not; else this test would time out.
    sender.send("k", None, (SPAN,))
    sender.close()
    assert not exporter.free.is_set()

    exporter.free.set()
    for thread in threading.enumerate():
        if "Span" in thread.name or "Otel" in thread.name:
            thread.join(SOON_S)
    assert "traces_not_sent" in {record.message for record in caplog.records}


# Off


def imported(path: Path) -> set[str]:
    """Return what a module imports when it is imported itself."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module))
    return found


def test_nothing_of_it_is_loaded_while_it_is_off() -> None:
    wanting = {
        path.name
        for path in SOURCE.rglob("*.py")
        if "opentelemetry" in (text := path.read_text()) or "node.otel" in text
        if any(
            name.startswith(("opentelemetry", "pgbastion.node.otel"))
            for name in imported(path)
        )
    }

    assert wanting == {"otel.py"}
    assert open_sender(TracingSection(), "n1") is None


def test_without_the_extra_the_node_says_so_and_works(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, EXPORTER, None)

    assert open_sender(TracingSection(enabled=True), "n1") is None
    assert [record.message for record in caplog.records] == ["tracing_not_installed"]


@pytest.mark.parametrize("endpoint", ["collector:4318", "ftp://x", "", "http://"])
def test_an_endpoint_that_cannot_be_is_refused(endpoint: str) -> None:
    with pytest.raises(ValueError, match="not the address of a collector"):
        TracingSection(enabled=True, endpoint=endpoint)
