"""Running commands inside a sandbox, on one of its hosts, as one of its users, from outside."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hipercow_slurm.testing.sandbox import layout, sshd
from hipercow_slurm.testing.sandbox.layout import Account
from hipercow_slurm.testing.sandbox.namespaces import HostNamespaces, children_in_pid_namespace
from hipercow_slurm.testing.sandbox.processes import as_user, on_host

_PATH = "/usr/local/bin:/usr/bin:/bin"
_ROOT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class CommandError(Exception):
    """A command in the sandbox failed; says what it printed.

    Attributes:
        result: exit code and output.
    """

    def __init__(self, where: str, result: subprocess.CompletedProcess[str]) -> None:
        shown = " ".join(result.args)
        super().__init__(
            f"{where}: {shown[:300]!r} ended with {result.returncode}\n"
            f"stdout: {(result.stdout or '').strip()[-4000:]}\nstderr: {(result.stderr or '').strip()[-4000:]}"
        )
        self.result = result


@dataclass(frozen=True, slots=True)
class Entrance:
    """How to get into a running sandbox: process 1 (as the machine counts) and its descriptors."""

    pid: int
    hosts: Mapping[str, HostNamespaces]
    kernel_nodes: tuple[str, ...] = ()

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> Entrance:
        """From the contents of info.json."""
        hosts = {name: HostNamespaces(**fds) for name, fds in info["hosts"].items()}
        return cls(info["pid"], hosts, tuple(info["options"]["kernel_nodes"]))

    def popen(
        self,
        host: str,
        argv: Sequence[str],
        user: str,
        env: Mapping[str, str] | None,
        **options: Any,
    ) -> subprocess.Popen[Any]:
        """Start a command; the object's pid is the command's own, so signals reach it.

        Raises:
            KeyError: no such host.
        """
        if host not in self.hosts:
            raise KeyError(f"no host {host!r}; there are {', '.join(self.hosts)}")
        account = _account(user)
        environment = _environment(account) | dict(env or {})
        if host in self.kernel_nodes:
            # A machine of its own: nothing of ours can enter it but through its network.
            return self.popen(layout.HEAD, sshd.into_node(host, argv, user, environment), "root", None, **options)
        enter = [
            *on_host(self.hosts[host], self.pid),
            f"--net=/proc/{self.pid}/ns/net",
            f"--ipc=/proc/{self.pid}/ns/ipc",
            f"--wdns={environment['HOME']}",
            "--",
            *as_user(user),
        ]
        with children_in_pid_namespace(self.pid):
            return subprocess.Popen([*enter, *argv], env=environment, umask=0o022, **options)

    def run(
        self,
        host: str,
        argv: Sequence[str],
        user: str,
        env: Mapping[str, str] | None,
        typed: str | None,
        timeout_s: float,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end.

        Raises:
            subprocess.TimeoutExpired: not done in time; it and its session have been killed.
        """
        stdin = {"stdin": subprocess.DEVNULL} if typed is None else {"stdin": subprocess.PIPE}
        process = self.popen(
            host,
            argv,
            user,
            env,
            **stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        with process:
            try:
                out, err = process.communicate(typed, timeout=timeout_s)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise
        return subprocess.CompletedProcess(list(argv), process.returncode, out, err)


def _account(user: str) -> Account:
    for account in (*layout.USERS, layout.CAROL, layout.LAPTOP_ACCOUNT, layout.SHARE_ACCOUNT, *layout.SERVICE_ACCOUNTS):
        if account.name == user:
            return account
    return Account(user, 0, "/root" if user == "root" else "/", "/bin/bash")


def _environment(account: Account) -> dict[str, str]:
    """What login gives; nothing of the caller's."""
    home = account.home if account.home != "/nonexistent" else "/"
    return {
        "HOME": home,
        "USER": account.name,
        "LOGNAME": account.name,
        "SHELL": "/bin/bash",
        "PATH": _ROOT_PATH if account.name == "root" else _PATH,
        "LANG": "C.UTF-8",
        "TERM": os.environ.get("TERM", "dumb"),
    }
