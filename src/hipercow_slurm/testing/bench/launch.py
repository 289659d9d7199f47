"""Part ``launch`` of the benchmark: what the plugin and the agent add to a launch, in one sandbox.

Three configurations in turn, several rounds of each, so that a busy minute of the machine hits all alike: no plugin,
ours, and ours with every agent down; a fourth is the plugin at ``PEER_SPANK``, asking the same cache. slurmd is
restarted with each: it learns only at its start whether there is a prolog to run. The times are those of the commands
as a user waits for them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

from hipercow_slurm.testing.bench.table import Goal, Table, show
from hipercow_slurm.testing.sandbox import Sandbox
from hipercow_slurm.testing.sandbox.layout import AUKSD_PORT, HEAD, LOGIN, REALM, fqdn
from hipercow_slurm.testing.story import LoginNode, eventually

USER = "alice"
PLUGSTACK = "/etc/slurm/plugstack.conf"
NONE, OURS, DOWN, PEER = "no plugin", "ours", "ours, agent down", "peer"
GOAL = 1.1
PEER_GOAL = 0.5  # of the peer's extra time
WAYS = ("srun", "step", "storm", "sbatch", "sbatch CPU", "batch")

# The peer's own files: its configuration, and the ccache with which its plugin asks (its sites renew that by cron).
PEER_CONF = f"""\
common {{
    PrimaryHost = "{fqdn(HEAD)}" ;
    PrimaryPort = {AUKSD_PORT} ;
    PrimaryPrincipal = "auks/{fqdn(HEAD)}@{REALM}" ;
}}
api {{ LogFile = "/dev/null" ; LogLevel = 0 ; }}
renewer {{ LogFile = "/dev/null" ; LogLevel = 0 ; }}
"""
PEER_CCACHE = "FILE:/tmp/krb5cc_0"

# On the login node as the user: {way: [seconds, ...]}. "step": srun inside an allocation, where no scheduler is waited
# for; "storm": eight of those at a time, as fast as the machine makes them, per step; "sbatch": the command and its CPU
# time, which other work on the machine changes little. Its jobs are held: jobs that start meanwhile take the processors
# from it, and with a prolog they start earlier (that was 0.4x of "batch" and 1.4x of "sbatch"). "batch": from the first
# of so many sbatch to the end of the last of their jobs, per job.
DRIVER = '''
import json, resource, subprocess, sys, time
count = int(sys.argv[1])
def timed(*command):
    began = time.monotonic()
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return time.monotonic() - began
def cpu():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
found = {"srun": [timed("srun", "true") for _ in range(count)]}
loop = """
import concurrent.futures, json, subprocess, time
def step(*options):
    began = time.monotonic()
    subprocess.run(["srun", *options, "true"], check=True)
    return time.monotonic() - began
steps = [step() for _ in range(%d)]
began = time.monotonic()
with concurrent.futures.ThreadPoolExecutor(8) as pool:
    list(pool.map(step, ["--overlap"] * %d))
print(json.dumps([steps, (time.monotonic() - began) / %d]))
""" % (count, 8 * count, 8 * count)
inside = subprocess.run(["salloc", "-Q", "-n1", "hipercow-python", "-c", loop], check=True, capture_output=True, text=True, timeout=600)
found["step"], found["storm"] = json.loads(inside.stdout)
found["storm"] = [found["storm"]]
batch = ("sbatch", "-Q", "-o", "/dev/null", "-D", "/tmp", "--wrap", "true")
before = cpu()
found["sbatch"] = [timed(*batch, "--hold") for _ in range(count)]
found["sbatch CPU"] = [(cpu() - before) / count]
subprocess.run(["scancel", "--me"], check=True, timeout=60)
began = time.monotonic()
for _ in range(count):
    timed(*batch)
while subprocess.run(["squeue", "-h", "--me"], check=True, capture_output=True, text=True).stdout.strip():
    time.sleep(0.1)
found["batch"] = [(time.monotonic() - began) / count]
print(json.dumps(found))
'''  # noqa: E501  a program, not prose


@dataclass(frozen=True, slots=True)
class Plan:
    """``launches`` of each kind in each of ``rounds``."""

    launches: int
    rounds: int


FULL = Plan(13, 8)
QUICK = Plan(8, 2)
TINY = Plan(2, 1)

Times = dict[str, dict[str, list[float]]]  # configuration -> way -> seconds


def run(plan: Plan) -> list[Goal]:
    """Start a sandbox of its own and measure."""
    with Sandbox() as sandbox:
        return measure(sandbox, plan)


def measure(sandbox: Sandbox, plan: Plan) -> list[Goal]:
    """Measure in a running sandbox, which is as before afterwards."""
    LoginNode(sandbox, USER).kinit()
    with _plugstack_kept(sandbox) as ours:
        lines = {NONE: "", OURS: ours, DOWN: ours}
        if peer := peer_plugin():
            lines[PEER] = _prepare_peer(sandbox, peer)
        times: Times = {name: {} for name in lines}
        for number in range(plan.rounds):
            first = number % len(lines)
            for name in [*lines][first:] + [*lines][:first]:
                with _configured(sandbox, name, lines[name]):
                    done = sandbox.run(
                        LOGIN, ["hipercow-python", "-c", DRIVER, str(plan.launches)], user=USER, timeout=900
                    )
                for way, seconds in json.loads(done.stdout).items():
                    times[name].setdefault(way, []).extend(seconds)
    _show(times, plan)
    return list(_goals(times))


@contextmanager
def _plugstack_kept(sandbox: Sandbox) -> Iterator[str]:
    before = sandbox.read(HEAD, PLUGSTACK)
    try:
        yield before
    finally:
        _plugstack(sandbox, before)


@contextmanager
def _configured(sandbox: Sandbox, name: str, line: str) -> Iterator[None]:
    _plugstack(sandbox, line)
    agents = [f"agent@{node}" for node in sandbox.options.nodes] if name == DOWN else []
    for agent in agents:
        sandbox.service(agent).stop()
    if name in (OURS, PEER):  # one that does nothing would look splendid
        sandbox.run(LOGIN, ["srun", "klist", "-s"], user=USER)
    try:
        yield
    finally:
        for agent in agents:
            sandbox.service(agent).start()


def peer_plugin() -> str | None:
    """The plugin at PEER_SPANK, if the person wants one beside ours.

    Raises:
        RuntimeError: it is no file.
    """
    plugin = os.environ.get("PEER_SPANK")
    if plugin and not os.access(plugin, os.R_OK):
        raise RuntimeError(f"PEER_SPANK={plugin} is not a plugin")
    return plugin or None


def _prepare_peer(sandbox: Sandbox, plugin: str) -> str:
    """Its files on all hosts; its line for plugstack.conf."""
    for host in (LOGIN, *sandbox.options.nodes):
        sandbox.run(host, ["mkdir", "-p", "/etc/auks"])
        sandbox.run(host, ["tee", "/etc/auks/auks.conf"], input=PEER_CONF)
    for node in sandbox.options.nodes:
        sandbox.run(node, ["kinit", "-k", "-c", PEER_CCACHE, f"host/{fqdn(node)}"])
    return f"required {plugin} conf=/etc/auks/auks.conf default=enabled hostcredcache={PEER_CCACHE}\n"


def _plugstack(sandbox: Sandbox, line: str) -> None:
    nodes = sandbox.options.nodes
    for host in (HEAD, LOGIN, *nodes):
        sandbox.run(host, ["tee", PLUGSTACK], input=line)
    for node in nodes:
        sandbox.service(f"slurmd@{node}").restart()

    def idle() -> bool:
        states = sandbox.run(HEAD, ["sinfo", "-h", "-N", "-o", "%T"]).stdout.split()
        return set(states) == {"idle"}

    eventually("the nodes are idle again", idle, within_s=30)


def _show(times: Times, plan: Plan) -> None:
    base = times[NONE]
    rows: list[Sequence[object]] = []
    for name in times:
        for way, seconds in times[name].items():
            middle = median(seconds)
            rows.append((way, name, len(seconds), middle * 1e3, max(seconds) * 1e3, middle / median(base[way])))
    rows.sort(key=lambda row: str(row[0]))
    heads = ("launch", "configuration", "n", "median ms", "max ms", "ratio")
    show(Table(f"Launches ({plan.rounds} rounds, in turn)", heads, rows))


def _goals(times: Times) -> Iterator[Goal]:
    for way in WAYS:
        for name in (OURS, DOWN):
            ratio = median(times[name][way]) / median(times[NONE][way])
            yield Goal(f"{way}: {name}, at most {GOAL}x of no plugin", f"{ratio:.2f}x", ratio <= GOAL)
    for way in WAYS:
        text = f"{way}: at most {PEER_GOAL}x of the peer's extra time"
        if PEER not in times:
            yield Goal(text, "no PEER_SPANK in this run", None)
            continue
        ours, peer = (median(times[name][way]) - median(times[NONE][way]) for name in (OURS, PEER))
        yield Goal(text, f"{ours * 1e3:+.0f} ms of {peer * 1e3:+.0f} ms", ours <= PEER_GOAL * peer)
