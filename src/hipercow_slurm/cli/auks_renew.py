"""``auks -R once|loop``: keep the TGT of a ccache alive.

``once`` does what AUKS' does. ``loop`` differs where AUKS' is at fault: that one ends with the first error, so a KDC
or cache restarted at the wrong moment ends a job's tickets hours later. Ours tells the error, tries again ever more
slowly, and ends only when the ticket has really expired. It also renews tickets that live no longer than MinLifeTime,
at half their life. Source: protocol notes, section 13.
"""

from __future__ import annotations

import random
import sys
import time

from hipercow_slurm.cli import auks_verbs as verbs
from hipercow_slurm.cli.auks import Wish
from hipercow_slurm.cli.auks_site import Site
from hipercow_slurm.errors import CredentialError, Error
from hipercow_slurm.krb5 import krbcred, renewal
from hipercow_slurm.values import KrbCred, TicketTimes

FIRST_RETRY_S = 1.0
SHORTEST_S = 0.2


def renew(site: Site, wish: Wish) -> None:
    """Renew once, or until it cannot be renewed any more; always raises in the end for ``loop``.

    Raises:
        CredentialError: ``still-valid`` (once), ``lifetime-too-short`` (once), ``ticket-over``, ``renew-refused``.
        Error: what reading or storing raises (once).
    """
    if wish.loop:
        _loop(site, wish)
        return
    own = verbs.read_tgt(wish.ccache)
    check_due(own.times, site.min_life_s, time.time())
    _renew(site, wish, own)


def check_due(times: TicketTimes, min_life_s: float, now: float) -> None:
    """Return only if the ticket is to be renewed now.

    Raises:
        CredentialError: ``lifetime-too-short``, ``ticket-over`` or ``still-valid``.
    """
    if times.endtime - times.starttime <= min_life_s:
        raise CredentialError("its lifetime is too short to be renewed", code="lifetime-too-short")
    if times.endtime <= now:
        raise CredentialError("the ticket has expired", code="ticket-over")
    if times.endtime - now > min_life_s:
        raise CredentialError("the ticket is still valid for long enough", code="still-valid")


def due_at(times: TicketTimes, min_life_s: float) -> float:
    """When ``loop`` renews: MinLifeTime before the end, or at half the life of a ticket shorter than that."""
    life = times.endtime - times.starttime
    return times.endtime - (min_life_s if life > min_life_s else life / 2)


def wait_after(failures: int, delay_s: float, left_s: float) -> float:
    """Seconds to the next try: doubling, at most the site's Delay, and always several in what life is left."""
    doubled: float = FIRST_RETRY_S * 2 ** min(failures - 1, 20)
    return max(SHORTEST_S, min(doubled, max(delay_s, 1.0), left_s / 4))


def _loop(site: Site, wish: Wish) -> None:
    failures = 0
    endtime: float | None = None
    while True:
        try:
            own = verbs.read_tgt(wish.ccache)  # each time: somebody else may have renewed it
            endtime = own.times.endtime
            if endtime > time.time() >= due_at(own.times, site.min_life_s):
                own = _renew(site, wish, own)
                endtime = own.times.endtime
            failures = 0
            wait = min(float(max(site.delay_s, 1)), max(SHORTEST_S, due_at(own.times, site.min_life_s) - time.time()))
        except Error as error:
            if endtime is None:  # there never was a ticket to keep alive
                raise
            failures += 1
            wait = wait_after(failures, site.delay_s, endtime - time.time())
            print(f"auks: {error.message}; next try in {wait:.1f} s", file=sys.stderr, flush=True)
        if endtime <= time.time():
            raise CredentialError("the ticket has expired", code="ticket-over")
        time.sleep(min(wait * random.uniform(0.9, 1.1), max(0.0, endtime - time.time())))  # noqa: S311  # no secret


def _renew(site: Site, wish: Wish, own: KrbCred) -> KrbCred:
    """Take the cache's ticket if it lasts longer, else renew at the KDC; store it, run the helper."""
    fresh = _from_cache(site, wish, own) or _from_kdc(own)
    verbs.store(wish.ccache, fresh)
    verbs.say(wish, f"renewed the ticket of {fresh.client} until {verbs.when(fresh.times.endtime)}")
    verbs.run_helper(site, wish.ccache)
    return fresh


def _from_cache(site: Site, wish: Wish, own: KrbCred) -> KrbCred | None:
    try:
        found = krbcred.parse(verbs.fetch(site, wish).data)
    except Error as error:
        verbs.say(wish, f"the cache has nothing: {error.message}")
        return None
    if found.client != own.client or found.times.endtime <= own.times.endtime:
        return None
    return found


def _from_kdc(own: KrbCred) -> KrbCred:
    try:
        found = renewal.renew(own)
    except Error as error:
        raise CredentialError(f"the KDC does not renew it: {error.message}", code="renew-refused") from error
    if found.times.endtime <= own.times.endtime:
        raise CredentialError("the KDC gives no longer ticket: its renewable time is over", code="renew-refused")
    return found
