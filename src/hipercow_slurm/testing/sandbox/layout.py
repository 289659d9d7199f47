"""Who and what exists in the sandbox: names, addresses, ports and accounts. Pure data, one source for all parts.

Every service has a network namespace of its own to itself (one per sandbox), so the usual ports are free.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

REALM = "SANDBOX.TEST"
# Where the people are, if their realm is not the machines': a KDC of its own, which the machines' realm trusts.
PEOPLE_REALM, PEOPLE_KDC_PORT = "PEOPLE.TEST", 1088
DOMAIN = "sandbox.test"

HEAD, FILES, LOGIN, LAPTOP = "head", "files", "login", "laptop"
NODES = ("c1", "c2")

# The hosts share one network namespace: the loopback address is theirs, and one that is none for the file server.
# With nodes that run a kernel of their own there is a real network; the cache's own address lets a test cut it alone.
CACHE = "cache"
NETWORK_BITS = 24
FILES_ADDRESS, HEAD_ADDRESS, CACHE_ADDRESS = "10.203.0.1", "10.203.0.2", "10.203.0.3"
LOGIN_ADDRESS, LAPTOP_ADDRESS = "10.203.0.4", "10.203.0.5"
_FIRST_NODE = 11
KDC_PORT, NFS_PORT, SMB_PORT, CTLD_PORT, SLURMD_PORT = 88, 2049, 445, 6817, 6818
API_PORT, AUKSD_PORT = 8443, 12345
API_URL = f"https://{HEAD}.{DOMAIN}:{API_PORT}"

# Where our own program lies on every host, and what the machine's /usr/local/bin is called there.
PROGRAM, SOURCE, LIBRARIES = "/run/program", "/run/program-source", "/run/program-libraries"
PYTHON = f"{PROGRAM}/bin/python"
MACHINE_LOCAL_BIN = "/run/machine-local-bin"

# A project share that laptop and nodes both see, each at its own place (see README.md), with a folder per user.
SHARE = f"//{FILES}.{DOMAIN}/work"
SHARE_ON_NODES, SHARE_ON_LAPTOP = "/mnt/work", "/media/work"

MUNGE_SOCKET = "/run/munge/munge.socket.2"
REST_SOCKET = "/run/slurmrestd/rest.sock"
SIGNER_SOCKET = "/run/hipercow-slurm/signer/signer.sock"
AGENT_SOCKET = "/run/hipercow-slurm/agent/agent.sock"
CONFIG = "/etc/hipercow-slurm"


def fqdn(host: str) -> str:
    """``c1`` -> ``c1.sandbox.test``."""
    return f"{host}.{DOMAIN}"


def service_principal(service: str, host: str) -> str:
    """``host``, ``c1`` -> ``host/c1.sandbox.test``."""
    return f"{service}/{fqdn(host)}"


@dataclass(frozen=True, slots=True)
class Account:
    """A line of /etc/passwd; its group has the same name and number."""

    name: str
    uid: int
    home: str = "/nonexistent"
    shell: str = "/usr/sbin/nologin"


def _person(name: str, uid: int) -> Account:
    return Account(name, uid, f"/home/{name}", "/bin/bash")


USERS = (_person("alice", 5001), _person("bob", 5002))
# More of them, where nodes have a kernel: what it knows of a user is per uid, and some tests need a uid for themselves.
CAROL, DAVE = _person("carol", 5003), _person("dave", 5004)
LAPTOP_ACCOUNT = _person("laptop", 5100)
# Where a laptop mounts a share over SMB, all of alice's files there are its user's. A bind mount shows the numbers as
# they are, so the user of the share has alice's.
SHARE_ACCOUNT = _person("pat", USERS[0].uid)
API, SIGNER, AUKSD, SLURMREST = (
    Account("hcs-api", 5201),
    Account("hcs-signer", 5202),
    Account("hcs-auksd", 5203),
    Account("slurmrest", 5204),
)
SERVICE_ACCOUNTS = (API, SIGNER, AUKSD, SLURMREST)
# Whose key opens the SMB session a multiuser mount starts with; its owner reaches no user's files.
CIFS_MOUNT = Account("cifsmount", 5205)


@dataclass(frozen=True, slots=True)
class Options:
    """What whoever starts a sandbox can choose.

    Attributes:
        ticket_life, renew_life: of users' tickets, as kadmin reads them ("60s", "10h", "7d").
        nodes: names of the compute nodes that are namespaces of this machine.
        programs: which of our own programs to start.
        kernel_nodes: names of the compute nodes that are machines of their own (testing/uml).
        slurm: a release of Slurm out of slurm_tree.RELEASES; empty: this machine's own.
        packages: folder with the Debian packages to install and run; "" runs the source tree.
        accounting: with slurmdbd and MariaDB, which remember what slurmctld forgets.
        two_realms: people's principals are in a realm of their own, services' and machines' in another.
        node_packages: folder of the .deb files that the kernel nodes install; "" runs the source tree there.
        emulated: the kernel nodes run the machine's stock Debian kernel in QEMU.
    """

    ticket_life: str = "10h"
    renew_life: str = "7d"
    nodes: tuple[str, ...] = NODES
    programs: tuple[str, ...] = ("signer", "auksd", "api", "agent")
    kernel_nodes: tuple[str, ...] = ()
    slurm: str = ""
    packages: str = ""
    accounting: bool = False
    node_packages: str = ""
    two_realms: bool = False
    emulated: bool = False

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Options:
        """What ``dataclasses.asdict`` and JSON made of it."""
        return cls(
            raw["ticket_life"],
            raw["renew_life"],
            tuple(raw["nodes"]),
            tuple(raw["programs"]),
            tuple(raw["kernel_nodes"]),
            raw["slurm"],
            raw["packages"],
            raw["accounting"],
            raw["node_packages"],
            raw["two_realms"],
            raw["emulated"],
        )

    @property
    def compute(self) -> tuple[str, ...]:
        """Every compute node, of either kind."""
        return (*self.nodes, *self.kernel_nodes)

    @property
    def people_realm(self) -> str:
        """The realm of people's principals."""
        return PEOPLE_REALM if self.two_realms else REALM

    @property
    def users(self) -> tuple[Account, ...]:
        """The people of the cluster."""
        return (*USERS, CAROL, DAVE) if self.kernel_nodes else USERS

    @property
    def hosts(self) -> tuple[str, ...]:
        """Every host, the head first."""
        return (HEAD, FILES, *self.compute, LOGIN, LAPTOP)

    @property
    def slurm_hosts(self) -> tuple[str, ...]:
        """The hosts with munge and Slurm's configuration."""
        return (HEAD, *self.compute, LOGIN)

    @property
    def addresses(self) -> dict[str, str]:
        """Every name, the cache's among them, and its IPv4 address."""
        if not self.kernel_nodes:
            return {name: FILES_ADDRESS if name == FILES else "127.0.0.1" for name in (*self.hosts, CACHE)}
        network, _, _ = FILES_ADDRESS.rpartition(".")
        return {
            FILES: FILES_ADDRESS,
            HEAD: HEAD_ADDRESS,
            CACHE: CACHE_ADDRESS,
            LOGIN: LOGIN_ADDRESS,
            LAPTOP: LAPTOP_ADDRESS,
            **dict.fromkeys(self.nodes, "127.0.0.1"),
            **{node: f"{network}.{_FIRST_NODE + number}" for number, node in enumerate(self.kernel_nodes)},
        }

    def share_at(self, host: str) -> str | None:
        """Where ``host`` has the project share; None: it does not."""
        return SHARE_ON_LAPTOP if host == LAPTOP else SHARE_ON_NODES if host in (*self.slurm_hosts, FILES) else None

    def packages_on(self, host: str) -> tuple[str, ...]:
        """The Debian packages that a host gets; none in a sandbox that runs the source tree."""
        if not self.packages or host == FILES:
            return ()
        common, spank = "hipercow-slurm", "hipercow-slurm-spank"
        more: dict[str, tuple[str, ...]] = {HEAD: ("hipercow-slurm-head",), LOGIN: (spank,), LAPTOP: ()}
        return (common, *more.get(host, (spank, "hipercow-slurm-node")))

    def passwd(self, host: str) -> tuple[Account, ...]:
        """The accounts the sandbox adds on ``host``: the laptop knows nobody of the cluster."""
        return (LAPTOP_ACCOUNT, SHARE_ACCOUNT) if host == LAPTOP else (*self.users, *SERVICE_ACCOUNTS, CIFS_MOUNT)


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder on a host's /run, made before any service starts; what tmpfiles.d does on a real host."""

    path: str
    owner: str = "root"
    group: str = "root"
    mode: int = 0o755


def run_folders(host: str, options: Options) -> tuple[Folder, ...]:
    """What a host's services find on /run."""
    folders = [Folder("/run/lock", mode=0o1777), Folder("/run/hipercow-slurm")]
    if host in options.slurm_hosts:
        folders += [Folder("/run/munge"), Folder("/run/slurm", "slurm", "slurm")]
    if host == HEAD:
        # These sockets are open to all: their folders decide who reaches them.
        folders += [
            Folder("/run/slurmrestd", SLURMREST.name, API.name, 0o750),
            Folder("/run/hipercow-slurm/signer", SIGNER.name, API.name, 0o750),
        ]
    if host == LOGIN:
        folders.append(Folder("/run/sshd"))
    if host in options.kernel_nodes:
        folders += [Folder(path) for path in ("/run/uml", "/run/node-log", "/run/packages", "/run/machine-dpkg")]
    if host in options.compute:
        folders.append(Folder("/run/hipercow-slurm/agent"))
    if host == FILES:
        folders += [Folder("/run/ganesha", mode=0o700), Folder("/run/samba"), Folder("/run/samba/ncalrpc")]
    return tuple(folders)
