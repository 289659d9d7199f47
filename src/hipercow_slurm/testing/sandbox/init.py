"""Process 1 of a sandbox: builds the hosts, starts the services, answers on the control socket.

The kernel ends every process of the pid namespace when this one ends, whatever ended it: that is how nothing is
left running. The namespaces go with their last process.

Order: hosts and files -> forked preparation steps ("realm", "keys") -> services, each as soon as what it needs is
ready. Progress goes to standard output as JSON lines until the sandbox is up.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import traceback
from asyncio import FIRST_COMPLETED
from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from hipercow_slurm.testing.sandbox import (
    control,
    fileservers,
    hosts,
    kerberos,
    layout,
    namespaces,
    ours,
    packages,
    services,
    slurm,
    sshd,
)
from hipercow_slurm.testing.sandbox.hosts import Program, Tree
from hipercow_slurm.testing.sandbox.layout import Options
from hipercow_slurm.testing.sandbox.manager import Manager
from hipercow_slurm.testing.sandbox.namespaces import HostNamespaces
from hipercow_slurm.testing.sandbox.processes import on_host

INFO = "info.json"


def main(root: Path, options: Options, program: Program, supervisor: socket.socket) -> NoReturn:
    """Be process 1 until told to end; never returns.

    Args:
        root: the sandbox's folder.
        supervisor: connected to it: ends when the supervisor does; told "up" when the sandbox is.
    """
    code = 1
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)  # the supervisor's handlers are not for us
        os.umask(0o022)
        os.chdir("/")
        world = _build(root, options, program)
        # Forked here, while this process has no event loop and no threads.
        steps = {name: _fork(world, name, step) for name, step in _steps(world).items()}
        asyncio.run(_serve(world, steps, supervisor))
        code = 0
    except BaseException as error:
        report(event="failed", why=_reasons(error), trace=traceback.format_exc())
    finally:
        os._exit(code)


def _reasons(error: BaseException) -> str:
    """One failure in full; of several at once the first: the others tend to be its echo."""
    if isinstance(error, BaseExceptionGroup):
        return _reasons(error.exceptions[0])
    return str(error) or type(error).__name__


def report(**event: Any) -> None:
    """One progress line; whoever listened may have gone."""
    with contextlib.suppress(OSError):
        os.write(1, json.dumps(event).encode() + b"\n")


@dataclass(frozen=True, slots=True)
class World:
    """What has been built before the first service starts."""

    tree: Tree
    options: Options
    hosts: dict[str, HostNamespaces]
    passwords: dict[str, str]
    pid: int  # of this process, as the machine counts

    def describe(self) -> dict[str, Any]:
        """What a client needs to enter the sandbox; goes into info.json, readable by root only."""
        return {
            "pid": self.pid,
            "options": asdict(self.options),
            "passwords": self.passwords,
            "hosts": {name: asdict(host) for name, host in self.hosts.items()},
        }


def _build(root: Path, options: Options, program: Program) -> World:
    """Namespaces, hosts' trees and their configuration."""
    os.setsid()
    pid = int(Path("/proc/self").readlink().name)  # before the sandbox's own /proc hides the machine's
    namespaces.unshare(namespaces.NEWNS | namespaces.NEWUTS | namespaces.NEWIPC | namespaces.NEWNET)
    namespaces.make_private()
    namespaces.mount("proc", "/proc", "proc")
    namespaces.tmpfs(str(hosts.IN_MEMORY), "0700")
    if Path("/sys/fs/cgroup").is_dir():
        namespaces.tmpfs("/sys/fs/cgroup", "0755")  # slurmd looks there; the machine's must not change
    _network(options)
    tree = Tree(root)
    hosts.make_share()
    hosts.make_trees(tree, options)
    hosts.make_program(tree, options, program)
    packages.copy(tree, options)
    fileservers.make_exports(tree, options)
    fileservers.write_config(tree, options)
    kerberos.write_config(tree, options)
    slurm.write_config(tree, options)
    sshd.write_config(tree, options)
    ours.write_config(tree, options)
    made = hosts.make_namespaces(tree, options, program)
    report(event="ready", name="hosts")
    return World(tree, options, made, kerberos.make_passwords(options), pid)


def _network(options: Options) -> None:
    """The hosts' addresses: on the loopback device, or on a bridge that nodes with their own kernel plug into."""
    bits = layout.NETWORK_BITS
    if not options.kernel_nodes:
        namespaces.network_up(f"{layout.FILES_ADDRESS}/{bits}")
        return
    namespaces.network_up()
    own = {address for host, address in options.addresses.items() if host not in options.compute}
    namespaces.bridge_up(
        sorted(f"{address}/{bits}" for address in own), [node.tap for node in services.machines(options)]
    )


def _steps(world: World) -> dict[str, Callable[[World], None]]:
    """The preparation steps; with packages their installation on each host, which on the head makes the keys."""
    installed = [host for host in world.options.hosts if world.options.packages_on(host)]
    if not installed:
        return {"realm": _realm, "keys": _keys}
    return {"realm": _realm, **{packages.step_of(host): partial(_packages, host) for host in installed}}


def _packages(host: str, world: World) -> None:
    packages.install(host, world.options, on_host(world.hosts[host]))
    packages.configure(host, world.tree, world.options)


def _realm(world: World) -> None:
    kerberos.make_realm(world.tree, world.options, world.passwords, on_host(world.hosts[layout.HEAD]))


def _keys(world: World) -> None:
    ours.make_keys(world.tree, world.options)


def _fork(world: World, name: str, step: Callable[[World], None]) -> int:
    """Run a preparation step in a child of its own, its complaints in the log of that name; its pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        log = os.open(world.tree.log / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        step(world)
        code = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


async def _serve(world: World, steps: dict[str, int], supervisor: socket.socket) -> None:
    """Start everything, then obey the control socket until told to end or until the supervisor is dead."""
    manager = Manager(
        world.tree,
        world.hosts,
        services.table(world.options),
        steps,
        lambda name: report(event="ready", name=name),
    )
    root, loop = world.tree.root, asyncio.get_running_loop()
    orphaned, down = asyncio.Event(), asyncio.Event()
    # The supervisor never writes: readable means that it is dead.
    loop.add_reader(supervisor, orphaned.set)
    await _first(manager.start_all(), orphaned.wait())
    if not orphaned.is_set():
        info = root / INFO
        info.touch(mode=0o600)
        info.write_text(json.dumps(world.describe()))
        await control.serve(root, manager, down)
        supervisor.send(b"up")
        report(event="up")
        _let_go_of_listener()
        await _first(down.wait(), orphaned.wait())
    if orphaned.is_set():
        _remove_all(root)


async def _first(*waits: Coroutine[Any, Any, object]) -> None:
    """Until one of them is done; an error of that one is raised."""
    done, _ = await asyncio.wait([asyncio.ensure_future(wait) for wait in waits], return_when=FIRST_COMPLETED)
    for task in done:
        task.result()


def _let_go_of_listener() -> None:
    """Whoever waited for the sandbox to be up sees the end of our standard output."""
    null = os.open("/dev/null", os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def _remove_all(root: Path) -> None:
    """The supervisor is dead: end every other process, then remove the folder ourselves.

    In this mount namespace nothing is mounted inside the folder (see hosts.py), so removal stays inside it.
    """
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
    shutil.rmtree(root, ignore_errors=True)
