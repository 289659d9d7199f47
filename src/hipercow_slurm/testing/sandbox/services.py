"""The table of services: what runs, on which host, as whom, after what, and how one sees that it answers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from hipercow_slurm.testing import uml
from hipercow_slurm.testing.sandbox import accounting, fileservers, kerberos, layout, ours, packages, slurm, sshd
from hipercow_slurm.testing.sandbox.layout import FILES, HEAD, Options

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Probe:
    """How a service shows that it is ready.

    kind ``tcp``: something listens on ``address:port`` (seen in /proc, without a connection that the service would
    log); ``unix``: the socket at path ``what`` on the service's host accepts; ``node``: like tcp (unless the
    port is 0), and slurmctld calls the node ``what`` idle or busy.
    """

    kind: Literal["tcp", "unix", "node"]
    what: str = ""
    port: int = 0


@dataclass(frozen=True, slots=True)
class Service:
    """One service.

    Attributes:
        needs: services and preparation steps (see init.py) that must be done before it starts.
        start_s: it must be ready within this time.
        broken: words in its log that mean it came up without what it is for.
        machine: killing it is a power cut: all of its processes die, also those that hold its disk.
    """

    name: str
    host: str
    user: str
    argv: tuple[str, ...]
    ready: Probe
    needs: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    start_s: float = 20.0
    broken: str = ""
    machine: bool = False

    @property
    def environment(self) -> dict[str, str]:
        """What the service finds in its environment: nothing of the owner's."""
        return {"PATH": _PATH, "HOME": "/", "LANG": "C.UTF-8", **self.env}


def table(options: Options) -> tuple[Service, ...]:
    """Every service of a sandbox, in the order a person would read them."""
    services = (*_infrastructure(options), *_slurm(options), *_fileservers(), *_ours(options), *_machines(options))
    return tuple(
        replace(service, needs=(*service.needs, packages.step_of(service.host)))
        if options.packages_on(service.host)
        else service
        for service in services
    )


def _tcp(port: int) -> Probe:
    return Probe("tcp", port=port)


def _infrastructure(options: Options) -> list[Service]:
    people = Service(
        "kdc-people",
        HEAD,
        "root",
        ("krb5kdc", "-n", "-r", layout.PEOPLE_REALM),
        _tcp(layout.PEOPLE_KDC_PORT),
        needs=("realm",),
        env={"KRB5_KDC_PROFILE": kerberos.PEOPLE_KDC_CONF},
    )
    return [
        *([people] if options.two_realms else []),
        Service("kdc", HEAD, "root", ("krb5kdc", "-n"), _tcp(layout.KDC_PORT), needs=("realm",)),
        Service(
            "munged",
            HEAD,
            "munge",
            ("munged", "--foreground", f"--socket={layout.MUNGE_SOCKET}", "--pid-file=/run/munge/munged.pid"),
            Probe("unix", layout.MUNGE_SOCKET),
        ),
    ]


def _slurm(options: Options) -> list[Service]:
    nodes = [
        Service(
            f"slurmd@{node}",
            node,
            "root",
            ("slurmd", "-D"),
            Probe("node", node, slurm.port_of(node, options)),
            needs=("munged", "slurmctld"),
        )
        for node in options.nodes
    ]
    return [
        Service(
            "slurmctld",
            HEAD,
            "slurm",
            ("slurmctld", "-D", "-i"),
            _tcp(layout.CTLD_PORT),
            needs=("munged", "keys", *(("slurmdbd",) if options.accounting else ())),
        ),
        *(_accounting() if options.accounting else ()),
        *nodes,
        Service(
            "slurmrestd",
            HEAD,
            layout.SLURMREST.name,
            ("slurmrestd", *slurm.rest_arguments(options), "-a", "rest_auth/jwt", f"unix:{layout.REST_SOCKET}"),
            Probe("unix", layout.REST_SOCKET),
            needs=("slurmctld",),
            # One arena: replies of some megabytes otherwise leave hundreds of megabytes behind.
            env={"SLURM_CONF": slurm.REST_CONF, "MALLOC_ARENA_MAX": "1"},
        ),
    ]


def _accounting() -> list[Service]:
    return [
        Service("mariadb", HEAD, "slurm", accounting.MARIADB, Probe("unix", accounting.SOCKET), needs=("munged",)),
        Service(
            "slurmdbd",
            HEAD,
            "slurm",
            ("slurmdbd", "-D"),
            _tcp(accounting.PORT),
            needs=("mariadb", "keys"),
            env={"MYSQL_UNIX_PORT": accounting.SOCKET},
        ),
    ]


def _fileservers() -> list[Service]:
    return [
        Service(
            "ganesha",
            FILES,
            "root",
            (
                "ganesha.nfsd",
                "-F",
                "-f",
                fileservers.GANESHA_CONF,
                "-L",
                "STDERR",
                "-p",
                "/run/ganesha/ganesha.pid",
            ),
            _tcp(layout.NFS_PORT),
            needs=("realm",),
            # It listens also when it serves none of its exports.
            broken="Could not create export",
        ),
        Service(
            "smbd",
            FILES,
            "root",
            ("smbd", "-F", "--no-process-group", "-s", fileservers.SMB_CONF, "--debug-stdout"),
            _tcp(layout.SMB_PORT),
            needs=("realm",),
        ),
    ]


def _ours(options: Options) -> list[Service]:
    services = []
    for program in ours.PROGRAMS:
        if program.name not in options.programs:
            continue
        hosts = options.nodes if program.on_nodes else (HEAD,)
        for host in hosts:
            services.append(
                Service(
                    f"{program.name}@{host}" if program.on_nodes else program.name,
                    host,
                    # A unit names its user itself.
                    "root" if options.packages else program.user,
                    packages.command(program.name) if options.packages else _from_source(program),
                    Probe("unix", program.socket) if program.socket else _tcp(program.port),
                    needs=program.needs,
                )
            )
    return services


def _machines(options: Options) -> list[Service]:
    """Nodes with a kernel of their own, and what people and we reach them and the login node by."""
    if not options.kernel_nodes:
        return []
    nodes = [
        Service(
            f"node@{machine.name}",
            machine.name,
            "root",
            machine.command(layout.SOURCE),
            Probe("node", machine.name),
            needs=("realm", "keys", "slurmctld", "ganesha", "smbd", "auksd"),
            # Its memory is a file, which must be executable: the host's own /dev/shm.
            env={"TMPDIR": "/dev/shm"},
            start_s=600.0 if options.emulated else 180.0,
            broken="FAILED:",
            machine=True,
        )
        for machine in machines(options)
    ]
    login = Service(
        "sshd", layout.LOGIN, "root", ("/usr/sbin/sshd", "-D", "-e", "-f", sshd.LOGIN_CONF), _tcp(22), needs=("realm",)
    )
    return [login, *nodes]


def machines(options: Options) -> list[uml.Machine]:
    """The nodes with a kernel of their own."""
    return [
        uml.Machine(node, f"{options.addresses[node]}/{layout.NETWORK_BITS}", number, options.emulated)
        for number, node in enumerate(options.kernel_nodes, start=1)
    ]


def _from_source(program: ours.OurProgram) -> tuple[str, ...]:
    return (layout.PYTHON, "-m", "hipercow_slurm", program.name, "--config", program.config)
