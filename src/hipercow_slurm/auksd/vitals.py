"""What the daemon has seen of itself and of what it depends on: for /metrics, /health and the statistics of USR2."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping

from hipercow_slurm.auksd.metrics import AuksdMetrics
from hipercow_slurm.errors import Error, UnavailableError
from hipercow_slurm.metrics import Check
from hipercow_slurm.slurm.oracle import Attempt

STORE_CODES = frozenset({"store-full", "store-failed", "store-corrupt"})
_NEVER = float("-inf")


class Vitals:
    """Counts and remembers.

    Args:
        metrics: counted too, if somebody listens.
        clock: monotonic seconds.
    """

    def __init__(self, metrics: AuksdMetrics | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.metrics = metrics
        self._clock = clock
        self._requests: Counter[tuple[str, str]] = Counter()
        self._renewals: Counter[str] = Counter()
        self._kdc_ok_at = self._kdc_down_at = self._store_ok_at = self._store_failed_at = _NEVER
        self._kdc_why = self._store_why = ""

    def request(self, verb: str, role: str | None, result: str) -> None:
        """A request was answered or refused."""
        self._requests[verb, result] += 1
        if self.metrics is not None:
            self.metrics.request(verb, role, result)

    def renewal(self, result: str) -> None:
        """A renewal ended: ``renewed``, ``failed`` or ``dropped``."""
        self._renewals[result] += 1
        if self.metrics is not None:
            self.metrics.renewal(result)

    def squeue(self, attempt: Attempt) -> None:
        """slurmctld was asked."""
        if self.metrics is not None:
            self.metrics.squeue(ok=attempt.error is None)

    def stored(self) -> None:
        """A change of the store is on disk."""
        self._store_ok_at = self._clock()

    def failed(self, error: Error) -> None:
        """A request failed; only the store's errors are remembered."""
        if error.code in STORE_CODES:
            self._store_failed_at, self._store_why = self._clock(), error.message

    def asked_kdc(self, seconds: float, error: Error | None) -> None:
        """The KDC was asked, took so long, and gave a ticket or this error; from any thread."""
        now = self._clock()
        if isinstance(error, UnavailableError):
            self._kdc_why, self._kdc_down_at = error.message, now
        else:  # a no is an answer too
            self._kdc_ok_at = now
        if self.metrics is not None:
            self.metrics.kdc(seconds, ok=error is None)

    def kdc_health(self) -> Check:
        """How the KDC is, as the renewer knows it."""
        if self._kdc_down_at > self._kdc_ok_at:
            return Check(False, f"{self._kdc_why}; {self._ago(self._kdc_ok_at, 'last answer')}")
        return Check(True, self._ago(self._kdc_ok_at, "last answer"))

    def store_health(self) -> Check:
        """Whether the last change could be stored."""
        if self._store_failed_at > self._store_ok_at:
            return Check(False, f"{self._store_why}; {self._ago(self._store_ok_at, 'last change')}")
        return Check(True, self._ago(self._store_ok_at, "last change"))

    def statistics(self) -> Mapping[str, int]:
        """Totals since the start: ``VERB_RESULT`` and ``renewals_RESULT``."""
        requests = {f"{verb}_{result}".replace("-", "_"): n for (verb, result), n in sorted(self._requests.items())}
        return requests | {f"renewals_{result}": n for result, n in sorted(self._renewals.items())}

    def _ago(self, at: float, what: str) -> str:
        return f"no {what} since the start" if at == _NEVER else f"{what} {self._clock() - at:.0f} s ago"
