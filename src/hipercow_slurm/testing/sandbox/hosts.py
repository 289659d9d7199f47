"""The hosts: each a folder with its own /etc, /var, /tmp, /root and /home, and a mount namespace that shows them.

What a host must not have (the laptop: Kerberos, Slurm, munge; the nodes: the file server's disks) is not in its
tree at all, rather than hidden by permissions.
"""

from __future__ import annotations

import compileall
import os
import shutil
import site
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import hipercow_slurm
from hipercow_slurm.errors import ConfigError
from hipercow_slurm.testing import slurm_tree
from hipercow_slurm.testing.sandbox import layers, layout, namespaces
from hipercow_slurm.testing.sandbox.layout import Account, Options

IN_MEMORY = Path("/dev/shm")
_VAR = ("cache", "lib", "log", "spool", "tmp")
_STICKY = 0o1777
PLUGIN = "hipercow_slurm.so"


@dataclass(frozen=True, slots=True)
class Tree:
    """The folder of one sandbox and where things lie in it; the whole is closed to everyone but root."""

    root: Path

    @property
    def log(self) -> Path:
        """One log file per service and step."""
        return self.root / "log"

    @property
    def program(self) -> Path:
        """The virtual environment every host sees at layout.PROGRAM."""
        return self.root / "program"

    @property
    def munge(self) -> Path:
        """munge's socket: the one thing Slurm's hosts share, so that one munged stands for one per host."""
        return self.root / "munge"

    @property
    def export(self) -> Path:
        """The file server's disk."""
        return self.root / "export"

    def host(self, name: str) -> Path:
        """The folder of one host."""
        return self.root / "hosts" / name

    def etc(self, host: str) -> Path:
        """A host's /etc: in memory (see init.py), as its thousand little files would cost seconds on a disk."""
        return IN_MEMORY / host / "etc"

    def var(self, host: str) -> Path:
        """A host's /var."""
        return self.host(host) / "var"


def make_trees(tree: Tree, options: Options) -> None:
    """Make every host's folders, and its /etc as a copy of the machine's with the accounts and names replaced."""
    for path in (tree.log, tree.munge):
        path.mkdir()
    copies = []
    for host in options.hosts:
        home = tree.host(host)
        for part in ("tmp", "root", "home", *(f"var/{name}" for name in _VAR)):
            (home / part).mkdir(parents=True)
        for part in ("tmp", "var/tmp"):
            (home / part).chmod(_STICKY)
        (home / "root").chmod(0o700)
        (home / "var/run").symlink_to("/run")
        (home / "var/lock").symlink_to("/run/lock")
        tree.etc(host).parent.mkdir()
        copies.append(subprocess.Popen(["cp", "-a", "/etc", str(tree.etc(host))]))
    if max(copy.wait() for copy in copies):
        raise OSError("copying /etc failed")
    for host in options.hosts:
        _personal_etc(tree.etc(host), host, options)
    for account in options.passwd(layout.LAPTOP):
        make_home(tree.host(layout.LAPTOP) / account.home.lstrip("/"), account)


def make_share() -> None:
    """The project share's disk, in memory, with a private folder per user.

    It is called what a laptop's SMB mount would be: that name in the mount table is what drivers look for.
    """
    path = IN_MEMORY / "share"
    path.mkdir()
    namespaces.mount(layout.SHARE, str(path), "tmpfs", namespaces.MS_NOSUID | namespaces.MS_NODEV, "mode=0755")
    for user in layout.USERS:
        make_home(path / user.name, user)


def make_home(path: Path, account: Account) -> None:
    """A private home folder."""
    path.mkdir(mode=0o700)
    chown(path, account)


def chown(path: Path, account: Account) -> None:
    """Give a file to one of our accounts and its group."""
    os.chown(path, account.uid, account.uid)


def _personal_etc(etc: Path, host: str, options: Options) -> None:
    accounts = options.passwd(host)
    _accounts(etc, accounts)
    (etc / "hostname").write_text(f"{host}\n")
    _replace(etc / "hosts", _hosts_file(host, options))
    _replace(etc / "resolv.conf", "")
    _replace(
        etc / "nsswitch.conf",
        "".join(f"{name}: files\n" for name in ("passwd", "group", "shadow", "hosts", "services", "protocols")),
    )
    for name in ("munge", "slurm", "krb5kdc", "krb5.conf.d", "hipercow-slurm"):
        shutil.rmtree(etc / name, ignore_errors=True)
    for name in ("krb5.conf", "krb5.keytab", "idmapd.conf"):
        (etc / name).unlink(missing_ok=True)
    (etc / "hipercow-slurm").mkdir()
    # ganesha finds file systems through it, and a minimal Debian has none.
    mtab = etc / "mtab"
    mtab.unlink(missing_ok=True)
    mtab.symlink_to("/proc/self/mounts")


def _hosts_file(own: str, options: Options) -> str:
    """All names, the host's own first: the first name of an address is what a reverse lookup finds."""
    names = [own, *(name for name in options.hosts if name != own)]
    names.append(layout.CACHE)
    lines = [f"{options.addresses[name]} {layout.fqdn(name)} {name}" for name in names]
    return "\n".join([*lines, "127.0.0.1 localhost", "::1 ip6-localhost", ""])


def _replace(path: Path, text: str) -> None:
    """Write a file of its own, also where the machine had a symbolic link."""
    path.unlink(missing_ok=True)
    path.write_text(text)


def _accounts(etc: Path, accounts: Iterable[Account]) -> None:
    """passwd, group and shadow: the system's accounts (Slurm's and munge's among them), ours, and no passwords."""
    passwd, group = _system_lines(etc / "passwd"), _system_lines(etc / "group")
    # Debian's group lines end in member lists; people of this machine have no business here.
    group = [":".join([*line.split(":")[:3], ""]) for line in group]
    for account in accounts:
        passwd.append(f"{account.name}:x:{account.uid}:{account.uid}::{account.home}:{account.shell}")
        group.append(f"{account.name}:x:{account.uid}:")
    _replace(etc / "passwd", "\n".join(passwd) + "\n")
    _replace(etc / "group", "\n".join(group) + "\n")
    _replace(etc / "shadow", "".join(f"{line.split(':')[0]}:*:19000::::::\n" for line in passwd))
    (etc / "shadow").chmod(0o600)
    for stale in ("gshadow", "passwd-", "group-", "shadow-", "gshadow-", "subuid", "subgid"):
        (etc / stale).unlink(missing_ok=True)


def _system_lines(path: Path) -> list[str]:
    lines = [line for line in path.read_text().splitlines() if line.count(":") >= 3]
    return [line for line in lines if not 1000 <= int(line.split(":")[2]) < 60000]


# --- our program, runnable by every account ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Program:
    """Where the running code, its libraries and its Python lie on this machine."""

    python: Path
    source: Path
    libraries: Path

    @property
    def spank(self) -> Path:
        """Where the SPANK plugin's source is; it need not exist, or not be built."""
        return self.source.parent / "spank"


def find_program() -> Program:
    """The program this process runs.

    Raises:
        ConfigError: its Python lies in a folder that other accounts cannot enter.
    """
    python = Path(os.path.realpath(sys.executable))
    for folder in (*python.parents, Path(site.getsitepackages([sys.base_prefix])[0])):
        if folder.exists() and not folder.stat().st_mode & 0o001:
            raise ConfigError(
                f"the sandbox's users cannot run {python}: {folder} is closed to them",
                hint="make the virtual environment from Debian's own Python: /usr/bin/python3 -m venv",
            )
    return Program(
        python=python,
        source=Path(hipercow_slurm.__file__).resolve().parents[1],
        libraries=Path(sysconfig.get_path("purelib")).resolve(),
    )


def make_program(tree: Tree, options: Options, program: Program) -> None:
    """A virtual environment of the same code at a path every account can reach, and the commands on PATH.

    Where packages are installed the program itself is theirs; the helpers of tests stay.

    The repository may lie below a closed folder such as /root: hosts see it only through bind mounts.
    """
    # The hosts see the source read-only: compiled now, or never.
    compileall.compile_dir(program.source / "hipercow_slurm", quiet=2)
    root = tree.program
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = root / "lib" / version / "site-packages"
    for folder in (packages, root / "bin", root / "local-bin"):
        folder.mkdir(parents=True)
    (root / "pyvenv.cfg").write_text(f"home = {program.python.parent}\ninclude-system-site-packages = false\n")
    (root / "bin" / "python").symlink_to(program.python)
    # Paths named in a .pth file do not get their own .pth files read: an editable install stays out of it.
    (packages / "sandbox.pth").write_text(f"{layout.SOURCE}\n{layout.LIBRARIES}\n")
    if options.slurm:
        slurm_tree.find(options.slurm).make_plugin(program.spank, root)
    elif (program.spank / PLUGIN).exists():
        shutil.copy(program.spank / PLUGIN, root / PLUGIN)
    for name, command in {
        "hipercow-slurm": "-m hipercow_slurm",
        "hipercow-python": "",
        "krbcat": "-m hipercow_slurm.files.nfs4 cat",
        "hipercow-slurm-upload": "-m hipercow_slurm upload",
    }.items():
        if options.packages and name == "hipercow-slurm":
            continue
        script = root / "local-bin" / name
        script.write_text(f'#!/bin/sh\nexec {layout.PYTHON} {command} "$@"\n')
        script.chmod(0o755)
    for present in Path("/usr/local/bin").iterdir():
        link = root / "local-bin" / present.name
        if not os.path.lexists(link):
            link.symlink_to(f"{layout.MACHINE_LOCAL_BIN}/{present.name}")


# --- mount namespaces -------------------------------------------------------------------------------------


def make_namespaces(tree: Tree, options: Options, program: Program) -> dict[str, namespaces.HostNamespaces]:
    """One mount and UTS namespace per host, in which its own tree stands at the usual places."""
    return {
        host: namespaces.make_host(host, lambda host=host: _furnish(tree, host, options, program))  # type: ignore[misc]
        for host in options.hosts
    }


def _furnish(tree: Tree, host: str, options: Options, program: Program) -> None:
    """Mount one host's tree over this (new) mount namespace.

    Nothing is ever mounted inside the sandbox's own folder: whoever removes that folder must not be able to walk
    through a mount into the machine's files.
    """
    hold = namespaces.hold
    # Everything is looked up first: the mounts below hide the places where source and folder may lie.
    own = {f"/{name}": hold(tree.host(host) / name) for name in ("var", "root", "home", "tmp")}
    own["/etc"] = hold(tree.etc(host))
    kernel_node = host in options.kernel_nodes
    if host in options.slurm_hosts and not kernel_node:
        own["/home"] = hold(tree.export / "home")
    if host == layout.FILES:
        own["/srv"] = hold(tree.export)
    program_parts = {
        layout.PROGRAM: hold(tree.program),
        layout.SOURCE: hold(program.source),
        layout.LIBRARIES: hold(program.libraries),
        layout.MACHINE_LOCAL_BIN: hold("/usr/local/bin"),
    }
    usr, dpkg = (
        [layers.hold(place, IN_MEMORY / host / name)] if options.packages_on(host) else []
        for name, place in (("usr", "/usr"), ("dpkg", "/var/lib/dpkg"))
    )
    share, share_at = hold(IN_MEMORY / "share"), options.share_at(host)
    local_bin, munge, log = hold(tree.program / "local-bin"), hold(tree.munge), hold(tree.log)
    node_packages = hold(options.node_packages) if options.node_packages else None
    machine_dpkg = hold("/var/lib/dpkg")
    other_slurm = {}
    if options.slurm and host in options.slurm_hosts:
        other_slurm = {target: hold(source) for source, target in slurm_tree.find(options.slurm).mounts()}

    for layer in usr:
        layer.mount()
    namespaces.tmpfs("/dev/shm", "1777")
    namespaces.tmpfs("/run", "0755")
    if share_at is not None:
        namespaces.tmpfs(str(Path(share_at).parent), "0755")
        Path(share_at).mkdir()
        namespaces.bind(share, share_at)
    for target, source in program_parts.items():
        Path(target).mkdir()
        namespaces.bind(source, target, readonly=True)
    namespaces.bind(local_bin, "/usr/local/bin", readonly=True)
    for target, source in own.items():
        namespaces.bind(source, target)
    for layer in dpkg:
        layer.mount()
    for folder in layout.run_folders(host, options):
        Path(folder.path).mkdir()
        shutil.chown(folder.path, folder.owner, folder.group)
        Path(folder.path).chmod(folder.mode)
    if kernel_node:
        namespaces.bind(log, "/run/node-log")
        if node_packages is not None:
            namespaces.bind(node_packages, "/run/packages", readonly=True)
            # What this machine has installed is installed on the node too: dpkg checks dependencies against it.
            namespaces.bind(machine_dpkg, "/run/machine-dpkg", readonly=True)
    elif host in options.slurm_hosts:
        namespaces.bind(munge, "/run/munge")
    if other_slurm:
        Path(slurm_tree.MOUNTED).mkdir()
    for target, source in other_slurm.items():
        namespaces.bind(source, target, readonly=True)
