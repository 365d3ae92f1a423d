"""Counts and times of one ingress, in the text format of Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Of one ingress.

    Args:
        ingress: name of the process, on every figure: where there are several, each scrape meets one of them.
    """

    def __init__(self, ingress: str) -> None:
        self._registry = registry = CollectorRegistry()
        self._ingress = ingress
        self._requests = Counter(
            "ecgmoe_requests", "Requests by path and HTTP status.", ("ingress", "path", "status"), registry=registry
        )
        self._seconds = Histogram(
            "ecgmoe_request_seconds",
            "From a request's head to its answer.",
            ("ingress", "path"),
            buckets=_SECONDS,
            registry=registry,
        )
        self.inside = Gauge(
            "ecgmoe_queue", "Predictions that are read, wait or are computed.", ("ingress",), registry=registry
        ).labels(ingress)
        self._batch = Histogram(
            "ecgmoe_batch_size", "Records in one pass.", ("ingress",), buckets=_SIZES, registry=registry
        ).labels(ingress)
        self._model = Gauge("ecgmoe_model", "1 for the model served.", ("ingress", "version"), registry=registry)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(self._ingress, path, status).inc()
        self._seconds.labels(self._ingress, path).observe(seconds)

    def batch(self, records: int) -> None:
        """Count a pass of the model."""
        self._batch.observe(records)

    def model(self, version: str) -> None:
        """Say which model answers."""
        self._model.clear()
        self._model.labels(self._ingress, version).set(1)

    def text(self) -> bytes:
        """All figures."""
        return generate_latest(self._registry)
