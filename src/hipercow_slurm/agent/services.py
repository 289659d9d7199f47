"""Service tickets (``nfs/...``, ``cifs/...``) in the jobs' ccaches, when a new TGT takes the place of an old one.

rpc.gssd and every other libkrb5 program put them into the ccache beside the TGT. A ccache with nothing but the new TGT
would send the kernel to the KDC for each server again, and if that is away just then, an access fails though the ticket
that it was made with is still good.

Rule 1: a new file has the service tickets that the user's jobs here had, as long as they are good.
Rule 2: then the KDC is asked for new ones for the same servers, which end with the new TGT; they take the places of the
old. If it is away that is tried again, and the old ones serve until they end: libkrb5 passes over a ticket that
has ended, so an old one never keeps anybody from a new one. The KDC is asked no more than rpc.gssd would ask it.
Rule 3: only tickets of the same client, for servers in realms that the new TGTs lead to, at most ``MANY`` in
``SIZE`` bytes, of the ``JOBS`` newest jobs. What is in a file of the user's is the user's word: it is parsed strictly,
nothing but names and times in it is looked at, and no other user's file ever gets it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hipercow_slurm import log
from hipercow_slurm.agent import place
from hipercow_slurm.agent.jobs import Job
from hipercow_slurm.errors import AccessError, CredentialError, Error, ProtocolError
from hipercow_slurm.krb5 import ccache, ccfile, creds, krbcred
from hipercow_slurm.krb5.krbcred import Ticket
from hipercow_slurm.krb5.principal import Principal
from hipercow_slurm.values import KrbCred

MANY, SIZE, JOBS = 16, 128 * 1024, 8
RETRY_S = 5.0  # after a KDC that did not answer, for all uids together; one try may take 27 s by itself


@dataclass(slots=True)
class _Wanted:
    """For which servers a uid's jobs need newer tickets, and the TGT to get them with."""

    cred: KrbCred
    servers: list[str]
    busy: bool = False


class Services:
    """What is to be carried over and what to be fetched, for all uids. The methods named so block."""

    def __init__(self, places: place.Places) -> None:
        self._places = places
        self._wanted: dict[int, _Wanted] = {}
        self._not_before = 0.0
        self._away = False  # the KDC, when it was asked last; said once

    def content(self, uid: int, cred: KrbCred, jobs: Sequence[Job]) -> bytes:
        """A FILE ccache with ``cred`` and the service tickets of ``jobs``, all of ``uid`` here (rule 1). Blocks."""
        newest = sorted((job for job in jobs if job.ticket is not None), key=lambda job: job.started, reverse=True)
        contents = (self._places.read(job.ccache, uid=job.uid, gid=job.gid) for job in newest[: _reach(newest)])
        kept = carried((one for one in contents if one is not None), cred, time.time())
        # Got with an older TGT. By the endtime alone a service with a short max_life would be asked for ever again.
        if servers := [one.server for one in kept if one.starttime < cred.times.starttime]:
            self._wanted[uid] = _Wanted(cred, servers)
        else:
            self._wanted.pop(uid, None)
        return ccache.file_of([*krbcred.tickets(cred), *kept])

    def due(self, uid: int) -> bool:
        """Whether it is time to ``fetch`` for ``uid``; then nobody else is told so until that is over."""
        wanted = self._wanted.get(uid)
        if wanted is None or wanted.busy or time.monotonic() < self._not_before:
            return False
        wanted.busy = True
        return True

    def forget(self, uid: int) -> None:
        """The uid has no job here any more."""
        self._wanted.pop(uid, None)

    def fetch(self, uid: int) -> list[Ticket]:
        """Rule 2: the new tickets; fewer, or none, if the KDC refuses or is away. Blocks as long as libkrb5 does."""
        wanted, found = self._wanted.get(uid), list[Ticket]()
        if wanted is None:
            return found
        tgts = krbcred.tickets(wanted.cred)
        try:
            # Another uid, for which the KDC was waited for meanwhile, may have found it away.
            for server in list(wanted.servers) if time.monotonic() >= self._not_before else ():
                try:
                    found.append(creds.ticket_for(tgts, server))
                except (AccessError, CredentialError):
                    pass  # it will not give one: the old one is all there is
                wanted.servers.remove(server)
                self._away = False
        except Error as error:
            self._not_before = time.monotonic() + RETRY_S
            if not self._away:
                log.get().warning("agent.services_kept", uid=uid, servers=len(wanted.servers), why=error.message)
            self._away = True
        finally:
            wanted.busy = False
        if not wanted.servers and self._wanted.get(uid) is wanted:
            del self._wanted[uid]
        return found

    def put(self, job: Job, found: Iterable[Ticket]) -> None:
        """Replace service tickets in the job's ccache by those of ``found`` that last longer. Blocks.

        Raises:
            UnavailableError: as ``Places.write``.
        """
        content = self._places.read(job.ccache, uid=job.uid, gid=job.gid)
        try:
            owner, there = ccfile.parse(content or b"")
        except ProtocolError:
            return
        new = {one.server: one for one in found if one.client == owner}
        longer = {server: one.endtime for server, one in new.items()}
        after = [new[one.server] if longer.get(one.server, 0) > one.endtime else one for one in there]
        if job.ticket is not None and owner == job.ticket.client and after != there:
            self._places.write(job.ccache, ccache.file_of(after), uid=job.uid, gid=job.gid)


def carried(contents: Iterable[bytes], cred: KrbCred, now: float) -> list[Ticket]:
    """Rules 1 and 3: of each server the ticket that lasts longest, those that end last first."""
    tgts = krbcred.tickets(cred)
    realms = {Principal.parse(one.server).components[1] for one in tgts}
    found: dict[str, Ticket] = {}
    for content in contents:
        try:
            owner, tickets = ccfile.parse(content)
        except ProtocolError:
            continue  # whatever the user has made of it
        for one in tickets if owner == cred.client else ():
            server = Principal.parse(one.server)
            if one.client == owner and not server.is_tgs and server.realm in realms and one.endtime > now:
                found[one.server] = max(found.get(one.server, one), one, key=lambda ticket: ticket.endtime)
    return _bounded(sorted(found.values(), key=lambda one: one.endtime, reverse=True))


def _bounded(tickets: list[Ticket]) -> list[Ticket]:
    kept, left = [], SIZE
    for one in tickets[:MANY]:
        left -= len(one.ticket_der) + len(one.key)
        if left >= 0:
            kept.append(one)
    return kept


def _reach(jobs: Sequence[Job]) -> int:
    """To look into a ccache in memory takes a child: one of them has to do."""
    return 1 if jobs and place.split(jobs[0].ccache)[0] in place.MEMORIES else JOBS
