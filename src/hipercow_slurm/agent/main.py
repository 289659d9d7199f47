"""``hipercow-slurm agent``: puts the parts together and runs them until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hipercow_slurm import daemon, log
from hipercow_slurm.agent import config, helper, server, state
from hipercow_slurm.agent.holding import Holder
from hipercow_slurm.agent.keeper import Keeper
from hipercow_slurm.agent.source import CacheSource, HostTicket
from hipercow_slurm.agent.status import Status
from hipercow_slurm.errors import ConfigError

KRB5_THREADS = 4


async def serve(config_path: Path, stop: asyncio.Event) -> None:
    """Keep the tickets of this node's jobs until ``stop``; the jobs' ccaches stay, the next agent goes on with them.

    Raises:
        ConfigError: the configuration, the keytab, the state or the socket cannot be used.
    """
    file = config.read(config_path)
    _check(file.agent)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(KRB5_THREADS, thread_name_prefix="krb5"))
    disk = state.State(Path(file.agent.state_dir))
    host = HostTicket(config.host_principal(file.agent.principal), file.agent.keytab)
    source = CacheSource(file.cache.servers, host)
    holder = Holder(file.agent.scontrol)
    keeper = Keeper(file.agent, source, disk, still_runs=holder.still_runs)
    await keeper.take_over()
    listener = server.listen(Path(file.agent.socket))
    work = [
        asyncio.create_task(host.warm()),
        asyncio.create_task(keeper.run()),
        asyncio.create_task(server.Server(keeper, Status(keeper, host), holder).run(listener)),
    ]
    log.get().info("agent.ready", socket=file.agent.socket, principal=host.principal, policy=file.agent.policy)
    daemon.give_back_memory()
    daemon.ready()
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait([*work, stopped], return_when=asyncio.FIRST_COMPLETED)
    for task in [*work, stopped]:
        task.cancel()
    for task in work:
        with contextlib.suppress(asyncio.CancelledError):
            await task
    disk.close()


def _check(agent: config.AgentConfig) -> None:
    """What would otherwise only be noticed at the first job."""
    if os.geteuid() != 0:
        raise ConfigError("the agent must run as root: it writes files that belong to the jobs' users")
    helper.check(agent.helper)
    if not os.access(agent.keytab, os.R_OK):
        raise ConfigError(
            f"cannot read agent.keytab {agent.keytab}", code="keytab", hint="kadmin: ktadd host/FULL-NAME-OF-THIS-NODE"
        )
