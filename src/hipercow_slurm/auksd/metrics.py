"""The credential cache's numbers. All names begin with ``hipercow_slurm_auksd_``; every label has few values.

The tickets' times to expiry are counted when somebody asks (``count_tickets``), not with each change.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector

_NAME = "hipercow_slurm_auksd"

# Whatever is not in a table is counted as "other": a label's values are never a peer's to choose.
VERBS = frozenset({"connect", "ping", "list", "add", "get", "remove", "dump", "renew", "unknown"})
ROLES = frozenset({"guest", "user", "admin", "node", "none"})
RESULTS = frozenset({"ok", "stored", "kept-better", "not-found", "refused", "failed"})
RENEWALS = frozenset({"renewed", "failed", "dropped"})
OTHER = "other"

# Seconds to a ticket's end: over; then the usual alarms' and lifetimes' sizes.
LEFT_S = (0, 60, 300, 900, 3600, 4 * 3600, 10 * 3600, 24 * 3600)
KDC_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class TicketTimes(Collector):
    """Tickets by time to expiry, as they were when last counted.

    Cumulative gauges with the label ``le``, so ``histogram_quantile`` works on them; not of the type histogram, whose
    counts may only grow.
    """

    def __init__(self) -> None:
        self._counts = [0] * (len(LEFT_S) + 1)

    def count(self, endtimes: Iterable[int], now: float) -> None:
        """Replace the numbers by those of ``endtimes`` (seconds since 1970)."""
        counts = [0] * (len(LEFT_S) + 1)
        for endtime in endtimes:
            counts[bisect_left(LEFT_S, endtime - now)] += 1
        self._counts = counts

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily(
            f"{_NAME}_ticket_left_seconds_bucket", "Stored tickets by seconds to their end; le=0: over.", labels=["le"]
        )
        for bound, total in zip([*map(str, LEFT_S), "+Inf"], accumulate(self._counts), strict=True):
            family.add_metric([bound], total)
        yield family


class AuksdMetrics:
    """What auksd counts.

    Attributes:
        oldest_due: seconds by which the most overdue renewal is late; 0 if none is.
        connections: open now.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._tickets = TicketTimes()
        registry.register(self._tickets)
        self._requests = Counter(
            f"{_NAME}_requests", "Requests answered.", ["verb", "role", "result"], registry=registry
        )
        self._known: dict[tuple[str, str | None, str], Counter] = {}  # labels() costs more than all else here
        self._renewals = Counter(f"{_NAME}_renewals", "Renewals, by how they ended.", ["result"], registry=registry)
        self._kdc = Histogram(
            f"{_NAME}_kdc_seconds", "Time the KDC took.", ["result"], buckets=KDC_S, registry=registry
        )
        self._oracle = Counter(f"{_NAME}_squeues", "Questions to slurmctld.", ["result"], registry=registry)
        self.oldest_due = Gauge(
            f"{_NAME}_oldest_due_seconds", "How late the most overdue renewal is.", registry=registry
        )
        self.connections = Gauge(f"{_NAME}_connections", "Open connections.", registry=registry)
        for result in RENEWALS:  # a rate needs a zero to begin with
            self._renewals.labels(result)

    def request(self, verb: str, role: str | None, result: str) -> None:
        """Count one answered (or refused) request."""
        known = self._known.get((verb, role, result))
        if known is None:
            known = self._requests.labels(
                verb if verb in VERBS else OTHER,
                role if role in ROLES else "none" if role is None else OTHER,
                result if result in RESULTS else OTHER,
            )
            if verb in VERBS and role in ROLES and result in RESULTS:  # so there are few
                self._known[verb, role, result] = known
        known.inc()

    def renewal(self, result: str) -> None:
        """Count one renewal: ``renewed``, ``failed`` (to be tried again) or ``dropped``."""
        self._renewals.labels(result if result in RENEWALS else OTHER).inc()

    def kdc(self, seconds: float, *, ok: bool) -> None:
        """Note how long the KDC took for one renewal."""
        self._kdc.labels("ok" if ok else "failed").observe(seconds)

    def squeue(self, *, ok: bool) -> None:
        """Count one question to slurmctld."""
        self._oracle.labels("ok" if ok else "failed").inc()

    def count_tickets(self, endtimes: Iterable[int], now: float) -> None:
        """Count the stored tickets by time to expiry; for ``Listener(before_scrape=...)``."""
        self._tickets.count(endtimes, now)
