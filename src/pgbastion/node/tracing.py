"""Traces of each change of the primary, for a collector of OpenTelemetry.

Every node tells what it saw. Trace and root follow from the cluster and the new epoch,
so that what the nodes send belongs together though no context goes between them; the
new primary's node sends the root. Nothing of OpenTelemetry is loaded while this is off.

Source: OpenTelemetry specification, "Trace SDK", "IdGenerators" and "SpanProcessor".
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from pgbastion.config.tracing import TracingSection
from pgbastion.ha.host import Host
from pgbastion.ha.loop import Loop
from pgbastion.model.actions import Decision
from pgbastion.model.ids import NodeId
from pgbastion.model.report import Outage
from pgbastion.observe.logging import get_logger
from pgbastion.observe.phases import FIRST_SESSION, Change, Phases, Span
from pgbastion.proxy.listener import Proxy
from pgbastion.proxy.routes import Service

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

_MS: Final = 1_000_000

log = get_logger("tracing")


class Sender(Protocol):
    """Takes what a node saw of a change."""

    def send(self, key: str, parent: Span | None, spans: tuple[Span, ...]) -> None:
        """Send spans of one change; it must not wait.

        Args:
            key: The same on every node for the same change.
            parent: The whole of it, if it is this node that tells of it.
            spans: Its parts.
        """

    def close(self) -> None:
        """Send what is left, in a bounded time."""


class Tracing:
    """What one node tells of changes of the primary.

    Args:
        sender: Whom to tell.
        cluster: Returns what the cluster is known by, the same on every node.
        leads: Tells whether this node is the primary now.
        now_ns: The wall clock.
    """

    def __init__(
        self,
        sender: Sender,
        *,
        cluster: Callable[[], str],
        leads: Callable[[], bool],
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._sender = sender
        self._cluster = cluster
        self._leads = leads
        self._now_ns = now_ns
        self._phases = Phases()
        self._open: Change | None = None

    def decided(self, who: str, decision: Decision) -> None:
        """Take a decision whose reason differs from the one before."""
        self._phases.decided(who, decision.reason, self._now_ns())

    def ended(self, outage: Outage) -> None:
        """Take that another primary takes clients."""
        change = self._phases.complete(
            outage.epoch, outage.gap_ms * _MS, self._now_ns()
        )
        whole = change.whole if self._leads() else None
        self._sender.send(self._key(change), whole, change.phases)
        self._open = change

    def answered(self) -> None:
        """Take that a server has answered a client of the primary port."""
        change, self._open = self._open, None
        if change is None:
            return
        span = Span(
            name=FIRST_SESSION,
            begun_ns=change.whole.ended_ns,
            ended_ns=self._now_ns(),
        )
        self._sender.send(self._key(change), None, (span,))

    def close(self) -> None:
        """Send what is left, in a bounded time."""
        self._sender.close()

    def _key(self, change: Change) -> str:
        return f"{self._cluster()}/{change.epoch}"


class Traces:
    """Tracing as the configuration wants it; it may change while the node runs."""

    def __init__(self, own: NodeId, *, host: Host, loop: Loop, proxy: Proxy) -> None:
        self._own = own
        self._host = host
        self._loop = loop
        self._proxy = proxy
        self._section = TracingSection()
        self._running: Tracing | None = None

    def reconfigure(self, section: TracingSection) -> None:
        """Send to the collector that is configured now, or to nobody."""
        if section == self._section:
            return
        self.close()
        self._section = section
        sender = open_sender(section, self._own)
        if sender is None:
            return
        tracing = Tracing(sender, cluster=self._cluster, leads=self._leads)
        self._running = tracing
        self._loop.on_decided = tracing.decided
        self._loop.outages.on_end = tracing.ended
        self._proxy.on_answer(Service.PRIMARY, tracing.answered)

    def close(self) -> None:
        """Tell nobody any more; what is left is sent in a bounded time."""
        running, self._running = self._running, None
        if running is None:
            return
        self._loop.on_decided = self._loop.outages.on_end = None
        self._proxy.on_answer(Service.PRIMARY, None)
        running.close()

    def _cluster(self) -> str:
        state = self._host.state
        return f"{state.cluster_name}/{state.system_identifier}"

    def _leads(self) -> bool:
        held = self._host.state.assignment
        return held is not None and held.node == self._own


def open_sender(section: TracingSection, node: str) -> Sender | None:
    """Return who sends traces; None: nobody shall, or the extra is not installed."""
    if not section.enabled:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415 - only where it is wanted
            OTLPSpanExporter,
        )
    except ImportError as exc:
        log.warning(
            "tracing_not_installed",
            error=str(exc),
            remedy="pip install 'pgbastion[tracing]', or set tracing.enabled to false",
        )
        return None
    endpoint = section.endpoint
    exporter = OTLPSpanExporter(endpoint=endpoint and f"{endpoint}/v1/traces")
    log.info("tracing", endpoint=endpoint or "as the environment says")
    return sender_to(exporter, node)


def sender_to(exporter: "SpanExporter", node: str) -> Sender:
    """Return who sends to an exporter, in a thread of its own."""
    from pgbastion.node.otel import OtelSender  # noqa: PLC0415 - only where wanted

    return OtelSender(exporter, node)
