"""What Prometheus is told of an executor. Owners are not named: anybody on the metrics' address may read them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from sandbox_kernel.errors import ConfigurationError

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The counters of one executor, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.sandboxes = Gauge(
            "sandbox_executor_sandboxes", "Sandboxes that exist, by state.", ["state"], registry=registry
        )
        self.created = Counter("sandbox_executor_created", "Sandboxes that were made.", registry=registry)
        self.closed = Counter(
            "sandbox_executor_closed", "Sandboxes that are gone, by why.", ["cause"], registry=registry
        )
        self.links = Gauge("sandbox_executor_links", "Links that are open.", registry=registry)
        self.link_bytes = Counter(
            "sandbox_executor_link_bytes", "Bytes that links carried, in or out.", ["direction"], registry=registry
        )
        self.uploaded = Counter("sandbox_executor_uploaded_bytes", "Bytes of files uploaded.", registry=registry)
        self.calls = Histogram(
            "sandbox_executor_call_seconds",
            "Time of calls, by method and status; of streams, until their end.",
            ["method", "status"],
            buckets=SECONDS,
            registry=registry,
        )

    def serve(self, address: str) -> Callable[[], None]:
        """Let them be fetched at host:port; return what ends that. Raises ConfigurationError."""
        host, _, port = address.rpartition(":")
        try:
            server, thread = start_http_server(int(port), addr=host.strip("[]") or "127.0.0.1", registry=self.registry)
        except (OSError, ValueError) as exc:
            raise ConfigurationError(f"Executor.metrics_address {address!r} cannot be used: {exc}") from exc
        return lambda: _end(server, thread)


def _end(server: Any, thread: Any) -> None:
    server.shutdown()
    server.server_close()
    thread.join()
