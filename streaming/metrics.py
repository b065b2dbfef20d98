"""Every metric of the server, in one table. Labels are of fixed vocabularies, never ids.

One `Metrics` for each process, with a registry of its own, so that two servers in one process (tests) do not add up.
"""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Callable, Sequence

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.registry import Collector

from eventstore.categories.build_vocabulary import TYPES
from eventstore.event import Event

CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """Attributes are prometheus_client metrics; ``text()`` is the answer of ``GET /metrics``."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(name, what, labels, registry=self.registry)

        def gauge(name: str, what: str, *labels: str) -> Gauge:
            return Gauge(name, what, labels, registry=self.registry)

        self.websockets = gauge("websocket_active_connections", "Open WebSocket and Socket.IO connections")
        self.connections = gauge("foldstream_connections", "Open live connections", "transport")
        self.build_events = counter("build_events_total", "Events appended by this process", "type")
        self.event_bytes = counter("foldstream_event_bytes_total", "Bytes of data appended by this process")
        self.delivered = counter("foldstream_chunks_sent_total", "Chunks handed to live connections", "transport")
        self.polls = counter("foldstream_polls_total", "Answered polls")
        self.sse_streams = counter("foldstream_sse_streams_total", "SSE streams opened (the fallback of WebSocket)")
        self.resumes = counter("foldstream_resumes_total", "How live connections began", "transport", "outcome")
        self.downgrades = counter("foldstream_downgrades_total", "Members too slow, sent back to the log", "transport")
        self.stalled = counter("foldstream_stalled_total", "Connections closed because they took no byte", "transport")
        self.tails = gauge("foldstream_tails", "Streams watched by this process")
        self.repairs = counter("foldstream_repairs_total", "Holes closed from the log")
        self.gaps_swept = counter("foldstream_gaps_swept_total", "Tails that the sweep found behind the log")
        self.sweeps_failed = counter("foldstream_sweeps_failed_total", "Sweeps that the store did not answer")
        self.rings = counter("foldstream_rings_total", "Rings of the bus", "outcome")
        self.bus_connected = gauge("foldstream_bus_connected", "1 while the bus is heard")
        self.degraded = counter("foldstream_degraded_answers_total", "Answers given while the store was away")
        self.boundary_errors = counter(
            "foldstream_boundary_errors_total", "Unexpected errors kept at a boundary", "where"
        )
        self.follower_lag = gauge(
            "foldstream_follower_lag_seconds", "How long an event has waited for a follower of the log", "follower"
        )
        self.follower_active = gauge("foldstream_follower_active", "1 in the process that follows", "follower")
        self.request_seconds = Histogram(
            "foldstream_request_seconds",
            "Time to answer (streams excepted)",
            ("method", "status"),
            registry=self.registry,
        )

    def appended(self, events: Sequence[Event]) -> None:
        """Count what this process recorded."""
        for type_, count in Counts(event.type if event.type in TYPES else "other" for event in events).items():
            self.build_events.labels(type_).inc(count)
        self.event_bytes.inc(sum(len(event.json) for event in events))

    def watch(self, follower: str, lag: Callable[[], float], is_active: Callable[[], bool]) -> None:
        """Ask a follower how it does, whenever the page is read."""
        self.follower_lag.labels(follower).set_function(lag)
        self.follower_active.labels(follower).set_function(is_active)

    @property
    def bus_is_heard(self) -> bool:
        """The last that was said of the bus."""
        return self.registry.get_sample_value("foldstream_bus_connected") == 1

    def register(self, collector: Collector) -> None:
        """Add metrics of another room (the store's, the pipeline's) to the same page."""
        self.registry.register(collector)

    def text(self) -> bytes:
        """The page in Prometheus text format."""
        return generate_latest(self.registry)
