"""The last hops of ``doctor``: do the kernel's clients, NFS with rpc.gssd and SMB with cifs.upcall, find the ticket?"""

from __future__ import annotations

import configparser
from collections.abc import Iterator
from pathlib import Path

from hipercow_slurm.agent import as_user, place
from hipercow_slurm.agent import config as agent_config
from hipercow_slurm.agent.doctor_hops import Hop, Patient


def filesystems(patient: Patient, agent: agent_config.AgentConfig) -> Iterator[Hop]:
    """A hop or more for each mount that matters, in the words of its kind."""
    mounts = [line.split() for line in _text(patient.mounts).splitlines()]
    nfs = [one for one in mounts if one[2] in ("nfs", "nfs4") and "sec=krb5" in one[3]]
    loose = [one for one in mounts if one[2] in ("nfs", "nfs4") and "sec=krb5" not in one[3]]
    cifs = [one for one in mounts if one[2] in ("cifs", "smb3")]
    if cifs:
        yield _default_link(patient, agent)
    if nfs:
        yield from _gssd(patient, agent)
        yield Hop("mounts", "good", "NFS with Kerberos: " + ", ".join(f"{one[1]}" for one in nfs[:5]))
    for one in loose[:5]:
        yield Hop("mounts", "warning", f"{one[1]} is NFS without Kerberos", "if it should have it: mount -o sec=krb5p")
    for one in cifs[:5]:
        options = one[3].split(",")
        if "multiuser" in options or any(option.startswith("cruid=") for option in options):
            yield Hop("mounts", "good", f"{one[1]} is CIFS and takes KRB5CCNAME of the job's processes")
        else:
            todo = "mount -o sec=krb5,multiuser"
            yield Hop("mounts", "warning", f"{one[1]} is CIFS for one user: all jobs act as whoever mounted it", todo)
    if not nfs and not loose and not cifs:
        yield Hop("mounts", "warning", "no NFS or CIFS mount here", "none is needed where jobs use no Kerberized files")


def _default_link(patient: Patient, agent: agent_config.AgentConfig) -> Hop:
    """What the kernel renews a CIFS session with: it has no KRB5CCNAME then."""
    path = agent_config.default_ccache(agent)
    todo = "SMB mounts in docs/how-to/node-side.md"
    if path is None:
        kind = place.split(agent.ccache)[0]
        if kind in place.MEMORIES:
            return Hop("default ccache", "good", f"{agent.ccache} is the user's own if default_ccache_name is {kind}")
        return Hop("default ccache", "warning", "agent.default_ccache is off: the kernel renews no CIFS session", todo)
    uid = patient.job.get("uid")
    if uid is None:
        return Hop("default ccache", "good", f"{path} is a link to a job's ticket, for the kernel's CIFS renewals")
    mine = Path(path.replace("%u", str(uid)))
    target = str(mine.readlink()) if mine.is_symlink() else None
    if target is not None and agent_config.CCachePattern(agent.ccache).could_be(uid, target) and mine.exists():
        return Hop("default ccache", "good", f"{mine} is a link to {target}: the kernel renews CIFS sessions with it")
    why = f"{mine} is not the agent's link" if target or mine.exists() else f"there is no {mine}"
    return Hop("default ccache", "warning", f"{why}: the kernel may renew CIFS sessions with no ticket", todo)


def _gssd(patient: Patient, agent: agent_config.AgentConfig) -> Iterator[Hop]:
    """What rpc.gssd must be told so that it finds the ccaches and forgets them."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    try:
        parser.read_string(_text(patient.nfs_conf))
    except configparser.Error as error:
        yield Hop("gssd", "bad", f"{patient.nfs_conf}: {' '.join(str(error).split())}", "mend it")
        return
    section = parser["gssd"] if parser.has_section("gssd") else {}
    bound = section.get("context-timeout", "0")
    if not bound.isdigit() or int(bound) == 0:
        sentence = "the kernel keeps a user's access until the ticket ends, also after the last job is gone"
        todo = f"in {patient.nfs_conf}: [gssd] context-timeout=300, then restart rpc-gssd"
        yield Hop("gssd", "warning", sentence, todo)
    else:
        yield Hop("gssd", "good", f"the kernel forgets a user's access {bound} s after the ticket is gone")
    kind, rest = place.split(agent.ccache)
    if kind in place.MEMORIES:
        name = as_user.collection(agent.ccache).replace("%u", "%{uid}")
        todo = f"in /etc/krb5.conf: [libdefaults] default_ccache_name = {name}"
        yield Hop("gssd", "warning", f"rpc.gssd finds a {kind} ccache only if it is this host's default kind", todo)
        return
    folder, name = rest.rsplit("/", 1)
    scanned = section.get("cred-cache-directory", "/tmp:/run/user/%U").split(":")  # noqa: S108
    if (folder or "/").replace("%u", "%U") not in scanned or "krb5cc" not in name:
        sentence = f"rpc.gssd looks for *krb5cc* in {':'.join(scanned)}, and not for {agent.ccache}"
        todo = f"in {patient.nfs_conf}: [gssd] cred-cache-directory, or change agent.ccache"
        yield Hop("gssd", "bad", sentence, todo)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
