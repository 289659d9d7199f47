"""Slurm's configuration: slurmctld on the head, one slurmd per node host, slurmrestd as a user of its own.

The values are measured in this version (22.05): PrologFlags=Alloc so that every node of a job gets its ticket at
allocation; batch_sched_delay=0 so that a submit starts in under a second, bf_interval=1 so that a heterogeneous one
does too; no PrivateData, because the credential cache asks as an ordinary account who has which job; slurmctld knows
only public keys.
"""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path

from hipercow_slurm.testing.sandbox import accounting, layout, packages
from hipercow_slurm.testing.sandbox.hosts import PLUGIN, Tree
from hipercow_slurm.testing.sandbox.layout import Options

MIN_JOB_AGE_S = 300
JWKS = "/etc/slurm/jwks.json"
REST_CONF = "/etc/slurm/slurmrestd.conf"

_COMMON = f"""\
ClusterName=sandbox
SlurmctldHost={layout.HEAD}({{address}})
SlurmctldPort={layout.CTLD_PORT}
SlurmUser=slurm
"""

_SLURM_CONF = f"""\
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={layout.MUNGE_SOCKET}
AuthAltTypes=auth/jwt
AuthAltParameters=jwks=@JWKS@
StateSaveLocation=/var/lib/slurm/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
SlurmctldPidFile=/run/slurm/slurmctld.pid
SlurmdPidFile=/run/slurm/slurmd.pid
LogTimeFormat=iso8601_ms
# The machine may have no cgroups to give away: plain process tracking, no accounting.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
MailProg=/usr/bin/true
ReturnToService=2
SlurmdParameters=config_overrides
PlugStackConfig=/etc/slurm/plugstack.conf
PrologFlags=Alloc
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
DisableRootJobs=YES
MinJobAge={MIN_JOB_AGE_S}
Licenses=sandbox:2
GresTypes=gpu,tile
InactiveLimit=0
KillWait=5
"""

# The multiple-slurmd build of 22.05 wants to make cgroup folders even where none of its plugins is used.
_CGROUP_CONF = "CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n"
_NO_CGROUP_CONF = "CgroupPlugin=disabled\n"  # known since 23.11

_NODE = (
    "NodeName={node} NodeHostname={node} NodeAddr={address} Port={port} "
    "CPUs=4 Sockets=1 CoresPerSocket=4 ThreadsPerCore=1 RealMemory=8000 Gres={gres} State=UNKNOWN\n"
)

# A tile has no device: enough to be asked for and counted. A GPU must have a file, and Slurm looks no closer at it:
# those of the first node are twins of /dev/null, so that jobs with GPUs run on any machine.
_GRES_CONF = "Name=tile Count=2\n"
_GPUS_CONF = "NodeName={node} Name=gpu Type=a100 File=/etc/slurm/gpu[0-1]\n"


def port_of(node: str, options: Options) -> int:
    """Nodes share one address, so each slurmd has a port of its own."""
    return layout.SLURMD_PORT + options.compute.index(node)


def _gres(node: str, options: Options) -> str:
    """What a node has beside CPUs and memory; a node with a kernel of its own has no GPU."""
    return "tile:2,gpu:a100:2" if node in options.nodes[:1] else "tile:2"


def rest_arguments(options: Options) -> tuple[str, ...]:
    """slurmrestd's ``-s``: its default includes slurmdbd's part, which ends it where there is no slurmdbd.

    And ``-t`` for 22.05: of its 20 threads many wake up for each request and find nothing to do, half of its CPU time.
    """
    if options.slurm:
        return ("-s", "openapi/slurmctld,openapi/slurmdbd" if options.accounting else "openapi/slurmctld")
    return ("-t", "8", "-s", "openapi/v0.0.38,openapi/dbv0.0.38" if options.accounting else "openapi/v0.0.38")


def write_config(tree: Tree, options: Options) -> None:
    """slurm.conf and its companions on Slurm's hosts, and the folders Slurm and munge write to."""
    common = _COMMON.format(address=options.addresses[layout.HEAD])
    nodes = "".join(
        _NODE.format(node=node, address=options.addresses[node], port=port_of(node, options), gres=_gres(node, options))
        for node in options.compute
    )
    partition = f"PartitionName=main Nodes={','.join(options.compute)} Default=YES MaxTime=INFINITE State=UP\n"
    slurm = pwd.getpwnam("slurm")
    for host in options.slurm_hosts:
        etc = tree.etc(host) / "slurm"
        etc.mkdir()
        jwks = packages.JWKS if options.packages else JWKS
        text = common + _SLURM_CONF.replace("@JWKS@", jwks) + nodes + partition
        (etc / "slurm.conf").write_text(accounting.slurm_conf(text) if options.accounting else text)
        gpus = "".join(_GPUS_CONF.format(node=node) for node in options.nodes[:1])
        (etc / "gres.conf").write_text(_GRES_CONF + gpus)
        (etc / "cgroup.conf").write_text(_NO_CGROUP_CONF if options.slurm else _CGROUP_CONF)
        (etc / "plugstack.conf").write_text(
            "include /etc/slurm/plugstack.conf.d/*.conf\n"
            if host in options.kernel_nodes and options.node_packages
            else _plugstack(tree, options)
        )
        for part in ("lib/slurm", "log/slurm"):
            _own(tree.var(host) / part, slurm.pw_uid, slurm.pw_gid, 0o755)
    for node in options.compute:
        _own(tree.var(node) / "spool/slurmd", 0, 0, 0o755)
    for node in options.nodes[:1]:
        for gpu in ("gpu0", "gpu1"):
            os.mknod(tree.etc(node) / "slurm" / gpu, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    head = layout.HEAD
    _own(tree.var(head) / "lib/slurm/slurmctld", slurm.pw_uid, slurm.pw_gid, 0o700)
    # slurmrestd carries users' tokens to slurmctld; with a configuration of its own it needs no munge and no key.
    (tree.etc(head) / "slurm/slurmrestd.conf").write_text(
        # Without the last two, slurmrestd 22.05 fails to parse any request for GPUs.
        f"{common}AuthType=auth/jwt\nSelectType=select/cons_tres\nGresTypes=gpu,tile\n"
        + (accounting.STORAGE if options.accounting else "")
    )
    if options.accounting:
        accounting.write_config(tree, JWKS)
    _munge(tree, options)


def _plugstack(tree: Tree, options: Options) -> str:
    """Our plugin with its arguments; nothing where it is not built or where nobody would answer it."""
    if options.packages:
        return "include /etc/slurm/plugstack.conf.d/*.conf\n"
    if not (tree.program / PLUGIN).exists() or not {"agent", "auksd"} & set(options.programs):
        return ""
    return (
        f"required {layout.PROGRAM}/{PLUGIN} socket={layout.AGENT_SOCKET} timeout_ms=5000 "
        f"uploader=/usr/local/bin/hipercow-slurm minimum_uid=1000\n"
    )


def _munge(tree: Tree, options: Options) -> None:
    """One key: for the head's munged, whose socket its namespaces share, and for those of nodes with a kernel."""
    munge, secret = pwd.getpwnam("munge"), os.urandom(128)
    _own(tree.munge, munge.pw_uid, munge.pw_gid, 0o755)
    for host in (layout.HEAD, *options.kernel_nodes):
        for part in ("lib/munge", "log/munge"):
            _own(tree.var(host) / part, munge.pw_uid, munge.pw_gid, 0o711)
        _own(tree.etc(host) / "munge", munge.pw_uid, munge.pw_gid, 0o700)
        key = tree.etc(host) / "munge/munge.key"
        key.write_bytes(secret)
        key.chmod(0o400)
        os.chown(key, munge.pw_uid, munge.pw_gid)


def _own(path: Path, uid: int, gid: int, mode: int) -> None:
    path.mkdir(exist_ok=True)
    os.chown(path, uid, gid)
    path.chmod(mode)
