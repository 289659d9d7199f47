"""sbatch's options as we take them: one table for the command line and for the ``#SBATCH`` lines of a script.

Pure data and functions without any dependency, so that the laptop's program and the API read them alike. What of
sbatch's we do not have is an error, never silently dropped: a job that should have had a GPU and runs without is
worse than one that is not submitted. Every ``read`` raises ValueError with a sentence; what only Slurm's releases
or the whole job can decide is left to the service (``slurm/check.py``, the adapters).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hipercow_slurm.sbatch_time import minutes, moment

_MIB = {"K": 1 / 1024, "": 1, "M": 1, "G": 1024, "T": 1024**2}


def mebibytes(text: str) -> int:
    """sbatch's sizes, to MiB (rounded up): a number with K, M, G or T; M if there is none. 0: all there is."""
    match = re.fullmatch(r"([0-9]{1,12})([KMGT]?)B?", text.upper())
    if not match:
        raise ValueError(f"{text!r} is not a size like 500M or 4G")
    return math.ceil(int(match[1]) * _MIB[match[2]])


def count(text: str) -> int:
    """A whole number from 1 on."""
    if not re.fullmatch(r"[+]?0*[1-9][0-9]{0,8}", text):
        raise ValueError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def nodes(text: str) -> int | str:
    """How many nodes: a number, or ``MIN-MAX`` as it is; sbatch's ``-MAX`` begins at 1."""
    low, dash, high = text.partition("-")
    least, most = count(low) if low or not dash else 1, count(high) if dash else None
    if most is None or most == least:
        return least
    if most < least:
        raise ValueError(f"{text!r}: the most nodes are fewer than the fewest")
    return f"{least}-{most}"


def counted(text: str) -> int:
    """A whole number from 0 on."""
    if not re.fullmatch(r"[+]?[0-9]{1,9}", text):
        raise ValueError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def nice(text: str) -> int:
    """How much the job steps back behind others."""
    if not re.fullmatch(r"[+-]?[0-9]{1,9}", text):
        raise ValueError(f"{text!r} is not a whole number")
    return int(text)


def words(text: str) -> str:
    """Any text but none."""
    if not text:
        raise ValueError("it is empty")
    return text


def file(text: str) -> str:
    """A file's path; ``none`` is no file."""
    return "/dev/null" if text.lower() == "none" else words(text)


def one_of(*allowed: str) -> Callable[[str], str]:
    """A reader of one of a few words, in any case."""

    def read(text: str) -> str:
        if text.lower() not in allowed:
            raise ValueError(f"{text!r} is none of {', '.join(allowed)}")
        return text.lower()

    return read


def switch(**words: bool) -> Callable[[str], bool]:
    """A reader of one of a few words that mean yes or no; ``_1`` is the word 1."""
    meant = {word.removeprefix("_"): value for word, value in words.items()}

    def read(text: str) -> bool:
        if text.lower() not in meant:
            raise ValueError(f"{text!r} is none of {', '.join(meant)}")
        return meant[text.lower()]

    return read


@dataclass(frozen=True, slots=True)
class Option:
    """One option.

    Attributes:
        names: ``-x`` and ``--long`` forms.
        key: the API's name of what it sets.
        read: from the argument's text to the API's value; None for an option without argument.
        help: one line; none is shown of what concerns sbatch alone.
        flag: the value where there is no argument; with ``read`` too, the argument may be left out (``--opt=ARG``).
    """

    names: tuple[str, ...]
    key: str
    read: Callable[[str], Any] | None
    help: str = ""
    flag: Any = None


HINTS = ("compute_bound", "memory_bound", "multithread", "nomultithread")
GRES_FLAGS = ("disable-binding", "enforce-binding")
# In the order of --help.
OPTIONS: tuple[Option, ...] = (
    Option(("-J", "--job-name"), "name", words, "Name of the job (default: the script's)."),
    Option(("-p", "--partition"), "partition", words, "Partition to run in."),
    Option(("-A", "--account"), "account", words, "Account to charge."),
    Option(("-q", "--qos"), "qos", words, "Quality of service."),
    Option(("-t", "--time"), "time_limit_min", minutes, "Time limit: minutes, H:M:S, D-H, D-H:M:S."),
    Option(("--time-min",), "minimum_time_min", minutes, "The limit may be made as short as this to start earlier."),
    Option(("-N", "--nodes"), "nodes", nodes, "Number of nodes, or the fewest and the most: 2-4."),
    Option(("--use-min-nodes",), "use_min_nodes", None, "Of a range of nodes rather the fewest.", True),
    Option(("--spread-job",), "spread_job", None, "Over as many nodes as possible.", True),
    Option(("--contiguous",), "contiguous", None, "Nodes beside each other.", True),
    Option(("-n", "--ntasks"), "tasks", count, "Number of tasks."),
    Option(("--ntasks-per-node",), "tasks_per_node", count, "Number of tasks on each node."),
    Option(("--ntasks-per-socket",), "tasks_per_socket", count, "Number of tasks on each socket, at most."),
    Option(("--ntasks-per-core",), "tasks_per_core", count, "Number of tasks on each core, at most."),
    Option(("--ntasks-per-gpu",), "tasks_per_gpu", count, "Number of tasks for each GPU."),
    Option(("-c", "--cpus-per-task"), "cpus_per_task", count, "Processors for each task."),
    Option(("--cpus-per-gpu",), "cpus_per_gpu", count, "Processors for each GPU."),
    Option(("--mincpus",), "minimum_cpus_per_node", count, "Processors each node must have."),
    Option(("--sockets-per-node",), "sockets_per_node", count, "Sockets each node must have."),
    Option(("--cores-per-socket",), "cores_per_socket", count, "Cores each socket must have."),
    Option(("--threads-per-core",), "threads_per_core", count, "Threads of each core to use."),
    Option(("--hint",), "hint", one_of(*HINTS), "How the program computes: " + ", ".join(HINTS) + "."),
    Option(("-m", "--distribution"), "distribution", words, "Tasks over nodes: block, cyclic:block, plane=4."),
    Option(("-O", "--overcommit"), "overcommit", None, "More tasks than processors.", True),
    Option(("-S", "--core-spec"), "core_spec", counted, "Cores of each node to leave to the system."),
    Option(("--thread-spec",), "thread_spec", counted, "Threads of each node to leave to the system."),
    Option(("--cpu-freq",), "cpu_freq", words, "The processors' frequency: low, medium, high, kHz."),
    Option(("--mem",), "memory_mb", mebibytes, "Memory on each node: 500M, 4G (no unit: MiB)."),
    Option(("--mem-per-cpu",), "memory_per_cpu_mb", mebibytes, "Memory for each processor."),
    Option(("--mem-per-gpu",), "memory_per_gpu_mb", mebibytes, "Memory for each GPU."),
    Option(("--tmp",), "tmp_mb", mebibytes, "Temporary disk each node must have."),
    Option(("-G", "--gpus"), "gpus", words, "GPUs for the job: 2, or a100:2."),
    Option(("--gpus-per-node",), "gpus_per_node", words, "GPUs on each node."),
    Option(("--gpus-per-task",), "gpus_per_task", words, "GPUs for each task."),
    Option(("--gpus-per-socket",), "gpus_per_socket", words, "GPUs on each socket (with --sockets-per-node)."),
    Option(("--gpu-bind",), "gpu_bind", words, "Tasks to GPUs: closest, single:1, map_gpu:0,1."),
    Option(("--gpu-freq",), "gpu_freq", words, "The GPUs' frequency: low, medium, high."),
    Option(("--gres",), "gres", words, "Generic resources on each node: gpu:2."),
    Option(
        ("--gres-flags",),
        "gres_flags",
        one_of(*GRES_FLAGS),
        "Bind resources to processors: " + " or ".join(GRES_FLAGS) + ".",
    ),
    Option(("-C", "--constraint"), "constraint", words, "Features the nodes must have."),
    Option(("--prefer",), "prefer", words, "Features the nodes should have."),
    Option(("--cluster-constraint",), "cluster_constraint", words, "Features a federation's cluster must have."),
    Option(("--switches",), "switches", words, "At most so many switches, and how long to wait: 1@30."),
    Option(("-w", "--nodelist"), "nodelist", words, "Nodes the job must have: c[1-3]."),
    Option(("-x", "--exclude"), "exclude", words, "Nodes the job must not have: c[1-3]."),
    Option(("-a", "--array"), "array", words, "Array of jobs: 0-9, 1,3,5, 0-99%10."),
    Option(("-d", "--dependency"), "dependency", words, "Start after other jobs: afterok:17:18."),
    Option(
        ("--kill-on-invalid-dep",),
        "kill_on_invalid_dep",
        switch(yes=True, no=False),
        "What becomes of a job whose dependency cannot be met: yes, it ends.",
    ),
    Option(("-b", "--begin"), "begin_time", moment, "Not before: now+1hour, 20:00, 2030-01-31T20:00."),
    Option(("--deadline",), "deadline", moment, "Not at all if it cannot end before: 2030-01-31T20:00."),
    Option(("--delay-boot",), "delay_boot_min", counted, "Minutes before nodes are rebooted for their features."),
    Option(("-L", "--licenses"), "licenses", words, "Licences: matlab:2."),
    Option(("--bb",), "burst_buffer", words, "Burst buffer."),
    Option(("--reservation",), "reservation", words, "Reservation to run in."),
    Option(("--requeue",), "requeue", None, "May be put back and started anew.", True),
    Option(("--no-requeue",), "requeue", None, "Must never be started a second time.", False),
    Option(
        ("--exclusive",), "exclusive", one_of("user", "mcs"), "Share nodes with no other job (=user: of others).", True
    ),
    Option(("-s", "--oversubscribe"), "oversubscribe", None, "Share processors with other jobs.", True),
    Option(("-k", "--no-kill"), "no_kill", switch(off=False, no=False), "Go on when a node fails.", True),
    Option(
        ("--wait-all-nodes",),
        "wait_all_nodes",
        switch(_0=False, _1=True),
        "1: begin when all nodes are ready, 0: the first.",
    ),
    Option(("--signal",), "signal", words, "Signal before the end: USR1@60; to the script itself: B:USR1@60."),
    Option(("--nice",), "nice", nice, "Step back behind other jobs by this much.", 100),
    Option(("--priority",), "priority", count, "Priority, where the site lets users set it."),
    Option(("-H", "--hold"), "hold", None, "Submit held: the job waits for its release.", True),
    Option(("-D", "--chdir"), "working_directory", words, "Folder to run in (default: your home at the cluster)."),
    Option(("-o", "--output"), "output", file, "File for standard output, with sbatch's %j, %x, ..."),
    Option(("-e", "--error"), "error", file, "File for standard error (default: the same)."),
    Option(("-i", "--input"), "input", file, "File for standard input (default: none)."),
    Option(("--mail-type",), "mail_type", words, "When Slurm sends mail: END, FAIL, ALL, ..."),
    Option(("--mail-user",), "mail_user", words, "Whom it sends mail to."),
    Option(("--open-mode",), "open_mode", one_of("append", "truncate"), "What becomes of output files that exist."),
    Option(("--comment",), "comment", words, "Any text, shown with the job."),
    Option(("--wckey",), "wckey", words, "Key to account the job under."),
    Option(("--mcs-label",), "mcs_label", words, "Label of the plugin mcs/group."),
    Option(("--profile",), "profile", words, "What to measure: all, none, energy, task, lustre, network."),
    Option(("--acctg-freq",), "acctg_freq", words, "How often to measure, in seconds: 30, task=15."),
    Option(("--get-user-env",), "get_user_env", None, "Variables of a login at the cluster.", True),
    Option(
        ("--export",),
        "export",
        words,
        "Environment of the job; NAME alone takes its value here. Nothing else of your environment is sent.",
    ),
)

# Of a script these concern who submits it, not the job; the service takes no notice of them.
OWN: tuple[Option, ...] = (
    Option(("-W", "--wait"), "wait", None, flag=True),
    Option(("--parsable",), "parsable", None, flag=True),
    Option(("-Q", "--quiet"), "quiet", None, flag=True),
    Option(("-v", "--verbose"), "verbose", None, flag=True),
    Option(("--ignore-pbs",), "ignore_pbs", None, flag=True),
)

_NOT_CARRIED = "slurmrestd cannot be asked for it"
_NOT_READ = "files of the machine that submits are not read here"
_NOT_IN_A_SCRIPT = "it is for sbatch's command line"
# sbatch's others, and why not.
ELSEWHERE: dict[str, str] = {
    **dict.fromkeys(("-M", "--clusters"), "a job runs at the cluster that it is sent to"),
    **dict.fromkeys(("--uid", "--gid"), "a job runs as the user who is logged in"),
    **dict.fromkeys(("-F", "--nodefile", "--bbf", "--export-file"), _NOT_READ),
    "--propagate": "limits of the machine that submits are not passed on",
    **dict.fromkeys(("--wrap", "--test-only", "-h", "--help", "--usage", "-V", "--version"), _NOT_IN_A_SCRIPT),
    "--reboot": "only administrators may",
    **dict.fromkeys(("-B", "--extra-node-info"), "say --sockets-per-node, --cores-per-socket, --threads-per-core"),
    **dict.fromkeys(("--batch", "--power", "--mem-bind", "--network", "--tres-bind", "--umask"), _NOT_CARRIED),
    **dict.fromkeys(("--container", "--container-id", "--container-type", "--extra", "--segment"), _NOT_CARRIED),
    **dict.fromkeys(("--oom-kill-step", "--stepmgr", "--tres-per-task", "--resv-ports", "--x11"), _NOT_CARRIED),
    **dict.fromkeys(("--spread-segments", "--consolidate-segments"), _NOT_CARRIED),
}
