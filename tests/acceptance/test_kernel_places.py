"""Every place a ticket may be in, and rpc.gssd: does the kernel's NFS client find it there? And how long does the
kernel go on without it: the context timeout, which ``doctor`` asks for, measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from kernel_cluster import UID, Cluster

from hipercow_slurm.testing.story import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("kernel")]

NODE = "k1"
BOUND_S = 15
AGENT_TOML, KRB5_CONF, NFS_CONF = "/etc/hipercow-slurm/agent.toml", "/etc/krb5.conf", "/etc/nfs.conf"
PRIVATE = "/run/hipercow-slurm/tickets"
Proof = Callable[[str, object], None]

# where the agent puts tickets, what rpc.gssd is told, libkrb5's default kind
PLACES = {
    "a private folder": (f"{PRIVATE}/%u/krb5cc_%j", ["-d", f"/tmp:{PRIVATE}/%U"], ""),
    "/run/user": ("/run/user/%u/krb5cc_%j", [], ""),
    "DIR": ("DIR:/tmp/krb5cc_%u_%j", [], ""),
    "KEYRING": ("KEYRING:persistent:%u:%j", [], "KEYRING:persistent:%{uid}"),
    "KCM": ("KCM:%u:%j", [], "KCM:"),
}


def gssd(cluster: Cluster, *options: str) -> None:
    """rpc.gssd anew, with these options."""
    script = 'pkill -x rpc.gssd; sleep 0.5; setsid rpc.gssd -f -vv "$@" >>/run/node-log/gssd@k1.log 2>&1 </dev/null &'
    cluster.on(NODE, "bash", "-c", script, "gssd", *options, check=True)


@contextmanager
def changed(cluster: Cluster, path: str, old: str, new: str) -> Iterator[None]:
    """A file of the node with something else in it, then as it was."""
    before = cluster.sandbox.read(NODE, path)
    assert old in before, before
    cluster.sandbox.run(NODE, ["tee", path], input=before.replace(old, new, 1))
    try:
        yield
    finally:
        cluster.sandbox.run(NODE, ["tee", path], input=before)


@contextmanager
def kcm(cluster: Cluster) -> Iterator[None]:
    """Heimdal's KCM daemon on the node.

    What it allocates is not zero, as with memory that was used before: it never sets the clock offset of a new cache,
    and who stores a ticket there must, or the ticket seems to have ended.
    """
    start = "MALLOC_PERTURB_=165 setsid /usr/sbin/kcm >/run/node-log/kcm.log 2>&1 </dev/null &"
    cluster.on(NODE, "bash", "-c", start, check=True)
    try:
        yield
    finally:
        cluster.on(NODE, "pkill", "-x", "kcm")


def may_write(cluster: Cluster) -> bool:
    """Whether alice, in no job, can make a file on the mount now: the server has to be asked for that."""
    name = f"/data/alice/probe-{time.monotonic_ns()}"
    return bool(cluster.on(NODE, "sh", "-c", f"echo x > {name} && rm {name}", user="alice").returncode == 0)


def forgotten(cluster: Cluster, within_s: float) -> float:
    """Seconds until the kernel lets alice no more."""
    began = time.monotonic()
    eventually("the kernel forgets alice", lambda: not may_write(cluster), within_s=within_s, every_s=0.5)
    return time.monotonic() - began


@pytest.fixture(autouse=True, scope="module")
def bounded(cluster: Cluster) -> Iterator[None]:
    """rpc.gssd with the bound that the documentation asks for, shorter."""
    cluster.alice.laptop.login()
    gssd(cluster, "-t", str(BOUND_S))
    yield
    gssd(cluster)


def test_the_kernels_own_context_is_bounded(cluster: Cluster, proof: Proof) -> None:
    """The job and its ticket are gone; the kernel goes on with what it has, but not longer than it was told."""
    told = cluster.alice.ssh(
        "srun", "-w", NODE, "-D", "/tmp", "sh", "-c", "cat /data/alice/secret; echo $KRB5CCNAME"
    ).stdout
    name = told.splitlines()[1].removeprefix("FILE:")
    eventually("the ticket is gone", lambda: name not in cluster.operator.leftovers(NODE), within_s=30)
    after = forgotten(cluster, BOUND_S + 30)
    assert after <= BOUND_S + 10, f"{after:.1f} s with a bound of {BOUND_S} s"
    proof(f"kernel's own context, gssd -t {BOUND_S}", f"access ended {after:.1f} s after the job's ticket was removed")


@pytest.mark.parametrize("kind", PLACES)
def test_gssd_finds_the_ticket(cluster: Cluster, proof: Proof, kind: str) -> None:
    place, options, default = PLACES[kind]
    forgotten(cluster, BOUND_S + 60)  # what the test before left in the kernel would prove nothing
    agent = changed(cluster, AGENT_TOML, "[agent]\n", f'[agent]\nccache = "{place}"\n')
    libdefaults = f"[libdefaults]\n    default_ccache_name = {default}\n" if default else "[libdefaults]\n"
    with agent, changed(cluster, KRB5_CONF, "[libdefaults]\n", libdefaults):
        gssd(cluster, "-t", str(BOUND_S), *options)
        cluster.agent(NODE, "stop")
        cluster.agent(NODE, "start")
        try:
            job = (
                "sh",
                "-c",
                "echo $KRB5CCNAME; cat /data/alice/secret && echo x > /data/alice/by-kind && rm /data/alice/by-kind",
            )
            if kind == "KCM":
                with kcm(cluster):
                    told = cluster.alice.ssh("srun", "-w", NODE, "-D", "/tmp", *job, check=False)
            else:
                told = cluster.alice.ssh("srun", "-w", NODE, "-D", "/tmp", *job, check=False)
        finally:
            cluster.agent(NODE, "stop")
    cluster.agent(NODE, "start")
    log = cluster.on(NODE, "tail", "-20", f"/run/node-log/gssd@{NODE}.log").stdout
    name, *read = told.stdout.splitlines()
    start = place.partition("%")[0]
    assert read == ["secret of alice"] and start in name, f"{told}\n{log}"
    proof(f"NFS by a ticket in {kind}", f"{name}: read and written over krb5p, uid {UID['alice']}")


def test_doctor_knows_the_bound(cluster: Cluster, proof: Proof) -> None:
    """On a node with real mounts: without the setting it says what to do, with it that it is well."""
    with changed(cluster, NFS_CONF, "context-timeout", "# context-timeout"):
        said = cluster.on(NODE, "hipercow-slurm", "doctor").stdout
    assert "context-timeout=300" in said and "mounts: NFS with Kerberos" in said, said
    said = cluster.on(NODE, "hipercow-slurm", "doctor").stdout
    assert "good     gssd: the kernel forgets a user's access" in said and "BAD" not in said, said
    proof("doctor on a node with kernel mounts", " | ".join(line for line in said.splitlines() if "gssd" in line))
