"""Before and while a sandbox starts: whether it can run on this machine, and what it tells about its progress."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hipercow_slurm.errors import ConfigError, UnavailableError
from hipercow_slurm.testing import slurm_tree, uml
from hipercow_slurm.testing.sandbox import accounting, hosts
from hipercow_slurm.testing.sandbox.layout import Options

# A program of each package the sandbox needs, for a clear sentence when one is missing.
_PROGRAMS = {
    "ip": "iproute2",
    "nsenter": "util-linux",
    "krb5kdc": "krb5-kdc",
    "kadmin.local": "krb5-admin-server",
    "kinit": "krb5-user",
    "munged": "munge",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "srun": "slurm-client",
    "slurmrestd": "slurmrestd",
    "ganesha.nfsd": "nfs-ganesha",
    "smbd": "samba",
    "smbclient": "smbclient",
}


# The same for packages that bring a plugin only; below /usr/lib/ARCHITECTURE.
_PLUGINS = {
    "slurm-wlm/auth_jwt.so": "slurm-wlm-jwt-plugin",
    "slurm-wlm/select_cons_tres.so": "slurm-wlm-basic-plugins",
    "ganesha/libfsalvfs.so": "nfs-ganesha-vfs",
}


def check_machine(options: Options) -> None:
    """Whether this sandbox can run here.

    Raises:
        ConfigError: not root, packages are missing (all of them are named), or the Slurm that is asked for.
    """
    if os.geteuid() != 0:
        raise ConfigError("the sandbox needs root: it makes namespaces and accounts of its own", code="not-root")
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/bin:/bin"
    needed = (
        _PROGRAMS
        | (uml.programs(emulated=options.emulated) if options.kernel_nodes else {})
        | (accounting.PROGRAMS if options.accounting else {})
    )
    missing = {package for name, package in needed.items() if not shutil.which(name, path=path)}
    missing |= {package for name, package in _PLUGINS.items() if not list(Path("/usr/lib").glob(f"*/{name}"))}
    if missing:
        raise ConfigError(
            f"the sandbox needs the Debian packages {' '.join(sorted(missing))}",
            code="package-missing",
            hint="tools/setup.sh installs everything; make demo and make test call it",
        )
    if options.slurm:
        slurm_tree.find(options.slurm)
    hosts.find_program()


def events(process: subprocess.Popen[bytes], patience_s: float) -> Iterator[dict[str, Any]]:
    """The JSON lines a process prints; ends with them, or with UnavailableError when they take too long."""
    assert process.stdout is not None
    deadline = time.monotonic() + patience_s
    fd, buffer = process.stdout.fileno(), b""
    while True:
        ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise UnavailableError(f"the sandbox was not up after {patience_s:.0f} s", code="sandbox-failed")
        chunk = os.read(fd, 65536)
        if not chunk:
            return
        *complete, buffer = (buffer + chunk).split(b"\n")
        for line in complete:
            yield json.loads(line)
