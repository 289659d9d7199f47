"""The API's numbers. All names begin with ``hipercow_slurm_api_``; no label value is a caller's to choose."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_NAME = "hipercow_slurm_api"
_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})
WAYS = ("password", "basic", "negotiate", "ticket", "conversation")


class ApiMetrics:
    """What the API counts.

    Attributes:
        sessions: open in this process now.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            f"{_NAME}_requests", "Requests answered.", ["method", "route", "status"], registry=registry
        )
        self._seconds = Histogram(
            f"{_NAME}_request_seconds", "Time to the end of the answer.", ["route"], buckets=_SECONDS, registry=registry
        )
        self._logins = Counter(f"{_NAME}_logins", "Logins, by way and end.", ["way", "result"], registry=registry)
        self._refused = Counter(
            f"{_NAME}_connections_refused",
            "Connections for which there was no place: what is full (all, address), and whether they were told so.",
            ["full", "told"],
            registry=registry,
        )
        self.sessions = Gauge(f"{_NAME}_sessions", "Sessions open in this process.", registry=registry)
        self._known: dict[tuple[str, str, str], tuple[Counter, Histogram]] = {}
        for way in WAYS:  # a rate needs a zero to begin with
            self._logins.labels(way, "accepted")
        for full in ("all", "address"):
            for told in ("yes", "no"):
                self._refused.labels(full, told)

    def request(self, method: str, route: str | None, status: int, seconds: float) -> None:
        """Count one request; ``route`` is the pattern, not the address, and None for one that is none of ours."""
        key = (method if method in _METHODS else "other", route or "none", str(status or "none"))
        children = self._known.get(key)
        if children is None:  # there are as many as the labels have values; looking one up costs as much as counting
            children = self._known[key] = (self._requests.labels(*key), self._seconds.labels(key[1]))
        children[0].inc()
        children[1].observe(seconds)

    def login(self, way: str, result: str) -> None:
        """Count one login: ``accepted``, or the code it was refused with (of which there are few)."""
        self._logins.labels(way, result).inc()

    def no_place(self, full: str, told: bool) -> None:
        """Count one connection that was refused."""
        self._refused.labels(full, "yes" if told else "no").inc()
