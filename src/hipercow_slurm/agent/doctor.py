"""``hipercow-slurm doctor``: walks the way of a job's ticket hop by hop, and says where it stops and what to do.

As root on a node it looks with the node's key; as a user, with the user's own ticket. It changes nothing. A hop that
cannot be looked at from here (no rights, not this host's business) is left out and not called good.
"""

from __future__ import annotations

import json
import os
import pwd
import socket
import stat
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hipercow_slurm.agent import config as agent_config
from hipercow_slurm.agent import install, place
from hipercow_slurm.agent.doctor_hops import Hop, Patient, clock, name_of
from hipercow_slurm.agent.doctor_mounts import filesystems
from hipercow_slurm.client.auks_blocking import BlockingAuksClient
from hipercow_slurm.client.auks_steps import Limits, Server
from hipercow_slurm.errors import Error
from hipercow_slurm.krb5 import ccache, ccfile, creds
from hipercow_slurm.values import KrbCred

LIMITS = Limits(connect_s=2.0, read_s=4.0, kdc_s=5.0, total_s=8.0, rounds=1)
ASK_S = 3.0
SKEW_S = 30  # wrong enough to be said
LIMIT_S = 300  # what Kerberos bears by default
SKEW_HINT = "set this host's clock: Kerberos allows 5 minutes (chronyc tracking)"


def walk(patient: Patient) -> Iterator[Hop]:
    """The hops in the order a ticket takes them; ends early where nothing behind could be good."""
    try:
        file = agent_config.read(patient.config)
    except Error as error:
        yield Hop("configuration", "bad", error.message, error.hint or f"mend {patient.config}")
        return
    yield Hop("configuration", "good", f"{patient.config} names {len(file.cache.servers)} credential cache(s)")
    root = os.geteuid() == 0
    yield _node_key(patient, file.agent) if root else _user_ticket(patient)
    if root and patient.cred is not None:
        yield _skew(patient.cred)
    if patient.cred is not None:
        yield from _cache(patient, file)
    if root or patient.job_id is not None:
        yield from _agent(patient, file.agent)
    yield from filesystems(patient, file.agent)


def _node_key(patient: Patient, agent: agent_config.AgentConfig) -> Hop:
    principal = agent_config.host_principal(agent.principal)
    try:
        patient.cred = creds.keytab_tgt(principal, agent.keytab)
    except Error as error:
        return Hop("node key", "bad", f"{principal}: {error.message}", _todo(error, f"kadmin: ktadd {principal}"))
    return Hop("node key", "good", f"the KDC knows {patient.cred.client} by {agent.keytab}")


def _skew(fresh: KrbCred) -> Hop:
    """A ticket made this second says what time it is at the KDC; libkrb5 itself makes up for a wrong clock."""
    off = round(time.time() - fresh.times.starttime)
    if abs(off) <= SKEW_S:
        return Hop("clock", "good", f"within {SKEW_S} s of the KDC's")
    return Hop("clock", "bad" if abs(off) >= LIMIT_S else "warning", f"{off:+} s off the KDC's", SKEW_HINT)


def _user_ticket(patient: Patient) -> Hop:
    try:
        cred = ccache.read_tgt(None)
    except Error as error:
        return Hop("your ticket", "bad", error.message, "kinit")
    until = clock(cred.times.endtime)
    if cred.times.endtime <= time.time():
        return Hop("your ticket", "bad", f"the ticket of {cred.client} expired at {until}", "kinit")
    patient.cred = cred
    if cred.times.renew_till <= cred.times.endtime:
        return Hop("your ticket", "warning", f"{cred.client} until {until}, and cannot be renewed", "kinit -r 7d")
    return Hop("your ticket", "good", f"{cred.client} until {until}, renewable until {clock(cred.times.renew_till)}")


def _cache(patient: Patient, file: agent_config.File) -> Iterator[Hop]:
    cred, uid = patient.cred, _owner(patient)
    assert cred is not None
    names = ", ".join(f"{one.host}:{one.port}" for one in file.cache.servers)
    client = BlockingAuksClient(
        [Server(one.host, one.principal, one.port, one.nat) for one in file.cache.servers], limits=LIMITS
    )
    try:
        client.ping(auth=cred)
    except Error as error:
        todo = _todo(error, f"is auksd running there, and may {cred.client} ask it? its log says so")
        yield Hop("cache", "bad", f"{names}: {error.message}", todo)
        return
    yield Hop("cache", "good", f"{names} answers and proved who it is")
    if uid is None:
        return
    try:
        record = client.get(uid, auth=cred)
    except Error as error:
        yield Hop("ACL and role", "bad", error.message, "auksd's log names the rule that refused")
        return
    if record is None:
        why = f"the cache gives {cred.client} no ticket for uid {uid}: nobody handed one over, or no rule allows it"
        todo = (
            f"as {name_of(uid)}: hipercow-slurm login, or kinit and hipercow-slurm upload; if that is done: auksd's "
            "log says whether the ACL gives this host role node (and slurmctld knows a job of that user here)"
        )
        yield Hop("ACL and role", "bad", why, todo)
        return
    until = f"{record.principal} until {clock(record.times.endtime)}"
    if record.times.endtime <= time.time():
        yield Hop("ACL and role", "bad", f"the cache's ticket of {until} has expired", "log in again")
    else:
        yield Hop("ACL and role", "good", f"the cache gives {cred.client} the ticket of {until}")


def _agent(patient: Patient, agent: agent_config.AgentConfig) -> Iterator[Hop]:
    try:
        status = _ask_agent(agent.socket)
    except (OSError, ValueError) as error:
        yield Hop("agent", "bad", f"no answer at {agent.socket}: {error}", "systemctl status hipercow-slurm-agent")
        return
    if status["policy"] != agent.policy:
        sentence = f"it runs with policy {status['policy']}, its file says {agent.policy}"
        yield Hop("agent", "warning", sentence, "restart the agent: running jobs keep their tickets")
    else:
        yield Hop(
            "agent", "good", f"it answers as {status['principal']}, with {len(status['jobs'])} job(s) to show you"
        )
    if patient.job_id is None:
        return
    found = [job for job in status["jobs"] if job["job_id"] == patient.job_id]
    if not found:
        todo = "is this a node of the job? does plugstack.conf have our line? a wrong one is in slurmd's log"
        yield Hop("job", "bad", f"the agent knows no job {patient.job_id} (of yours)", todo)
        return
    patient.job = found[0]
    problem = patient.job["problem"]
    if patient.job["state"] in ("missing", "expired"):
        said = problem["sentence"] if problem else "it is being asked for"
        yield Hop("job", "bad", f"its ticket is {patient.job['state']}: {said}", "see the hop before this one")
    elif problem:
        yield Hop(
            "job", "warning", f"it has a ticket until {clock(patient.job['valid_until'])}, but {problem['sentence']}"
        )
    else:
        yield Hop("job", "good", f"it has the ticket of {patient.job['principal']}")
    yield _file(patient)


def _file(patient: Patient) -> Hop:
    (kind, rest), uid = place.split(patient.job["ccache"]), patient.job["uid"]
    if kind in place.MEMORIES:
        return _memory(patient.job["ccache"], uid)
    path = Path(rest if kind == "FILE" else f"{rest}/{install.TICKET}")
    try:
        found = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(found.st_mode) else b""
    except OSError as error:
        return Hop("file", "bad", f"{path}: {error.strerror}", "the agent puts it back within poll_s; who removes it?")
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != uid or mode & 0o077:
        sentence = f"{path} is not a file of uid {uid} alone (owner {found.st_uid}, mode {mode:04o})"
        return Hop("file", "bad", sentence, "remove it; the agent writes a new one within poll_s")
    try:
        until = ccfile.read_tgt(content).times.endtime
    except Error as error:
        return Hop("file", "bad", f"{path}: {error.message}", "remove it; the agent writes a new one within poll_s")
    if until <= time.time():
        return Hop("file", "bad", f"{path} ended at {clock(until)}", "see the hops before")
    return Hop("file", "good", f"{path} is {name_of(uid)}'s alone and good until {clock(until)}")


def _memory(name: str, uid: int) -> Hop:
    """A ccache that only its user can reach."""
    mine = os.geteuid() == uid
    content = None
    if mine or os.geteuid() == 0:
        try:
            content = place.Places().read(name, uid=uid, gid=pwd.getpwuid(uid).pw_gid)
        except KeyError as error:
            return Hop("file", "bad", f"{name}: {error}", "does this node know the job's user?")
    if content is None:
        todo = "the agent looks every five minutes and at each newer ticket; does the KCM daemon run? who ran kdestroy?"
        return Hop("file", "bad", f"{name} has no ticket of {name_of(uid)}", todo)
    until = ccfile.read_tgt(content).times.endtime
    if until <= time.time():
        return Hop("file", "bad", f"{name} ended at {clock(until)}", "see the hops before")
    return Hop("file", "good", f"{name} is {name_of(uid)}'s and good until {clock(until)}")


def _owner(patient: Patient) -> int | None:
    """Whose ticket the cache is asked for: the job's owner, as far as the agent tells; a user's own."""
    if os.geteuid() != 0:
        return os.geteuid()
    if patient.job_id is None:
        return None
    try:
        status = _ask_agent(agent_config.read(patient.config).agent.socket)
    except (OSError, ValueError, Error):
        return None
    return next((int(job["uid"]) for job in status["jobs"] if job["job_id"] == patient.job_id), None)


def _ask_agent(path: str) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(ASK_S)
        sock.connect(path)
        sock.sendall(b"status\n")
        with sock.makefile("rb") as reply:
            return dict(json.loads(reply.readline()))


def _todo(error: Error, otherwise: str) -> str:
    return SKEW_HINT if error.code == "clock-skew" else error.hint or otherwise


def as_dicts(hops: list[Hop]) -> list[dict[str, str]]:
    """For ``--json``."""
    return [asdict(hop) for hop in hops]
