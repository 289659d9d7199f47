"""Everything one API process is made of, built from its configuration and closed in one place."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from hipercow_slurm import log
from hipercow_slurm.api import conversations, sessions_db, submissions_db, throttle, throttle_db
from hipercow_slurm.api.accounts import Accounts
from hipercow_slurm.api.binding import EndPoint
from hipercow_slurm.api.cluster import Cluster
from hipercow_slurm.api.config import Config, with_realm
from hipercow_slurm.api.database import Database, opened
from hipercow_slurm.api.follow import Followers
from hipercow_slurm.api.health import HealthCheck
from hipercow_slurm.api.history import History
from hipercow_slurm.api.job_actions import JobActions
from hipercow_slurm.api.jobs import Jobs
from hipercow_slurm.api.login import Logins
from hipercow_slurm.api.metrics import ApiMetrics
from hipercow_slurm.api.naming import Names
from hipercow_slurm.api.opening import Opener
from hipercow_slurm.api.output import Outputs
from hipercow_slurm.api.partitions import Partitions
from hipercow_slurm.api.sessions import Sessions
from hipercow_slurm.api.slurm_tokens import SlurmTokens
from hipercow_slurm.api.submitting import Submitter
from hipercow_slurm.api.tickets import Tickets
from hipercow_slurm.api.trail import Trail
from hipercow_slurm.api.turns import Turns
from hipercow_slurm.client.auks import AuksClient, Limits
from hipercow_slurm.errors import UnavailableError
from hipercow_slurm.krb5 import enctypes, keytab
from hipercow_slurm.signer.client import SignerClient
from hipercow_slurm.slurm.rest import SlurmRest
from hipercow_slurm.slurm.scontrol import Scontrol

_CLEAN_EVERY_S = 600.0
_SUBMISSIONS_KEPT_S = 90 * 86400  # as long an Idempotency-Key is known

# A person waits for the answer: less patience than a program on a node has.
_CACHE_LIMITS = Limits(connect_s=2.0, read_s=5.0, kdc_s=5.0, total_s=10.0, rounds=2, delay_s=0.5)


@dataclass(frozen=True, slots=True)
class Services:
    """What the routes use."""

    conf: Config
    accounts: Accounts
    logins: Logins
    sessions: Sessions
    tickets: Tickets
    jobs: Jobs
    actions: JobActions
    outputs: Outputs
    followers: Followers
    turns: Turns
    bulk_turns: Turns
    cluster: Cluster
    health: HealthCheck
    metrics: ApiMetrics
    trail: Trail


@contextlib.asynccontextmanager
async def running(conf: Config, counted: ApiMetrics, trail: Trail, seen: EndPoint) -> AsyncIterator[Services]:
    """All services with their background work, until the block ends.

    Raises:
        ConfigError: the keytab is missing, unreadable, without our key or with weak ones only; the database cannot be
            used.
    """
    realm = conf.api.realm
    # Without a key of our own a lying KDC could let anyone in, so we do not start.
    service = keytab.check_service(conf.api.keytab, with_realm(conf.api.service, realm))
    if conf.api.weak_enctypes == "refuse":
        enctypes.refuse_weak_keytab(conf.api.keytab, service)
    async with opened(conf.api.database) as database:
        accounts = Accounts(minimum_uid=conf.api.minimum_uid, deny=conf.api.deny)
        servers = [(row.host, row.port, with_realm(row.principal, realm)) for row in conf.cache.servers]
        tickets = Tickets(AuksClient(servers, limits=_CACHE_LIMITS))
        sessions = Sessions(database, session_max_s=conf.api.session_max_s)
        names = Names(accounts, conf.api.keytab)
        opener = Opener(accounts, tickets, sessions, counted, trail)
        logins = Logins(conf, database, names, opener, sessions, counted, trail, seen)
        outputs = Outputs(conf.files)
        signer = SignerClient(conf.signer.socket, with_realm(conf.signer.service, realm))
        tokens = SlurmTokens(signer)
        try:
            scontrol = Scontrol(conf.slurm.scontrol, conf.slurm.scontrol_conf)
            async with SlurmRest(
                conf.slurm.socket,
                timeout_s=conf.slurm.timeout_s,
                ping_after_s=conf.slurm.ping_after_s,
                connections=conf.slurm.connections,
                default_partition=scontrol.default_partition,
            ) as slurm:
                partitions = Partitions(slurm, tokens)
                submitter = Submitter(conf, database, slurm, tokens, tickets, partitions)
                history = History(database)
                jobs = Jobs(
                    conf.jobs,
                    accounts,
                    slurm,
                    tokens,
                    tickets,
                    submitter,
                    history,
                    partitions,
                    accounting=conf.slurm.accounting,
                )
                actions = JobActions(conf.jobs, jobs, slurm, scontrol, tokens, history)
                followers = Followers(conf.limits.followers, conf.limits.followers_per_user, jobs, outputs, sessions)
                health = HealthCheck(conf, database, slurm)
                sessions.welcome = actions.release_waiting
                background = [asyncio.create_task(work) for work in (sessions.run(), _clean(database, conf))]
                try:
                    yield Services(
                        conf,
                        accounts,
                        logins,
                        sessions,
                        tickets,
                        jobs,
                        actions,
                        outputs,
                        followers,
                        Turns(conf.limits.requests_per_user),
                        Turns(max(1, conf.limits.requests_per_user // 8)),
                        Cluster(conf, database, slurm, tokens),
                        health,
                        counted,
                        trail,
                    )
                finally:
                    health.close()
                    for task in background:
                        task.cancel()
                    await asyncio.gather(*background, return_exceptions=True)
        finally:
            sessions.close()
            accounts.close()
            signer.close()
            logins.close()
            outputs.close()


async def _clean(database: Database, conf: Config) -> None:
    """Forget what is over: at start, and every ten minutes."""
    while True:
        now = int(time.time())
        with contextlib.suppress(UnavailableError):
            sessions = await database.run(sessions_db.drop_expired(now))
            submissions = await database.run(submissions_db.drop_old(now - _SUBMISSIONS_KEPT_S))
            await database.run(conversations.drop_expired(now))
            await database.run(throttle_db.clean(now, throttle.full_after_s(conf.limits)))
            if sessions or submissions:
                log.get().info("database.cleaned", sessions=sessions, submissions=submissions)
        await asyncio.sleep(_CLEAN_EVERY_S)
