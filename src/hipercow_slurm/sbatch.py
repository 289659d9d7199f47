"""sbatch's options as we take them: one table for the command line and for the ``#SBATCH`` lines of a script.

Pure data and functions without any dependency, so that the laptop's program and the API read them alike. What of
sbatch's we do not have is an error, never silently dropped: a job that should have had a GPU and runs without is
worse than one that is not submitted. Every ``read`` raises ValueError with a sentence.
"""

from __future__ import annotations

import math
import re
import shlex
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hipercow_slurm.errors import RequestError
from hipercow_slurm.sbatch_time import minutes, moment

__all__ = ["OPTIONS", "Option", "count", "directives", "environment", "mebibytes", "minutes", "moment", "nice", "nodes"]

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


def nodes(text: str) -> int:
    """A number of nodes; of sbatch's ranges only the ones that say a single number."""
    low, dash, high = text.partition("-")
    if dash and low != high:
        raise ValueError(f"{text!r}: a range of nodes cannot be asked for")
    return count(low)


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


@dataclass(frozen=True, slots=True)
class Option:
    """One option.

    Attributes:
        names: ``-x`` and ``--long`` forms.
        key: the API's name of what it sets.
        read: from the argument's text to the API's value; None for an option without argument.
        help: one line.
        flag: the value where there is no argument; with ``read`` too, the argument may be left out (``--opt=ARG``).
    """

    names: tuple[str, ...]
    key: str
    read: Callable[[str], Any] | None
    help: str
    flag: Any = None


# In the order of --help.
OPTIONS: tuple[Option, ...] = (
    Option(("-J", "--job-name"), "name", words, "Name of the job (default: the script's)."),
    Option(("-p", "--partition"), "partition", words, "Partition to run in."),
    Option(("-A", "--account"), "account", words, "Account to charge."),
    Option(("-q", "--qos"), "qos", words, "Quality of service."),
    Option(("-t", "--time"), "time_limit_min", minutes, "Time limit: minutes, H:M:S, D-H, D-H:M:S."),
    Option(("-N", "--nodes"), "nodes", nodes, "Number of nodes."),
    Option(("-n", "--ntasks"), "tasks", count, "Number of tasks."),
    Option(("--ntasks-per-node",), "tasks_per_node", count, "Number of tasks on each node."),
    Option(("-c", "--cpus-per-task"), "cpus_per_task", count, "Processors for each task."),
    Option(("--mem",), "memory_mb", mebibytes, "Memory on each node: 500M, 4G (no unit: MiB)."),
    Option(("--mem-per-cpu",), "memory_per_cpu_mb", mebibytes, "Memory for each processor."),
    Option(("-G", "--gpus"), "gpus", words, "GPUs for the job: 2, or a100:2."),
    Option(("--gpus-per-node",), "gpus_per_node", words, "GPUs on each node."),
    Option(("--gpus-per-task",), "gpus_per_task", words, "GPUs for each task."),
    Option(("--gres",), "gres", words, "Generic resources on each node: gpu:2."),
    Option(("-C", "--constraint"), "constraint", words, "Features the nodes must have."),
    Option(("-w", "--nodelist"), "nodelist", words, "Nodes the job must have: c[1-3]."),
    Option(("-a", "--array"), "array", words, "Array of jobs: 0-9, 1,3,5, 0-99%10."),
    Option(("-d", "--dependency"), "dependency", words, "Start after other jobs: afterok:17:18."),
    Option(("-b", "--begin"), "begin_time", moment, "Not before: now+1hour, 20:00, 2030-01-31T20:00."),
    Option(("-L", "--licenses"), "licenses", words, "Licences: matlab:2."),
    Option(("--reservation",), "reservation", words, "Reservation to run in."),
    Option(("--requeue",), "requeue", None, "May be put back and started anew.", True),
    Option(("--no-requeue",), "requeue", None, "Must never be started a second time.", False),
    Option(
        ("--exclusive",), "exclusive", one_of("user", "mcs"), "Share nodes with no other job (=user: of others).", True
    ),
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
    Option(
        ("--export",),
        "export",
        words,
        "Environment of the job; NAME alone takes its value here. Nothing else of your environment is sent.",
    ),
)
_BY_NAME = {name: option for option in OPTIONS for name in option.names}


# All #SBATCH lines of a script together: reading them takes the service's time, not only their owner's.
DIRECTIVES_LIMIT = 65536
_BLANK = " \t\v\f\r"
# The lines up to the first command: empty ones and comments.
_HEAD = re.compile(r"(?:[ \t\v\f\r\n]+|#[^\n]*\n)*")
_DIRECTIVE = re.compile(r"^#SBATCH(.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class _Word:
    text: str
    number: int  # of its line
    line: str

    def wrong(self, error: ValueError) -> RequestError:
        return RequestError(
            f"line {self.number} of the script, #SBATCH {self.line[:200]}: {error}",
            code="bad-directive",
            hint="take the line out, or submit with --ignore-directives",
        )


def directives(script: str) -> dict[str, Any]:
    """What the ``#SBATCH`` lines of ``script`` ask for, by key; later lines win.

    Raises:
        RequestError: "bad-directive", with the line's number.
    """
    found: dict[str, Any] = {}
    words = deque(_words_of(script))
    while words:
        first = words.popleft()
        try:
            for option, value in _options(first.text, words):
                found[option.key] = (value,) if option.key == "export" else value
        except ValueError as error:
            raise first.wrong(error) from error
    return found


def _words_of(script: str) -> Iterator[_Word]:
    """As sbatch reads them: one list of all lines, so that an option's argument may stand in the next."""
    head = _HEAD.match(script + "\n")
    assert head is not None
    number, at, size = 1, 0, 0
    for match in _DIRECTIVE.finditer(head[0]):
        number += head[0].count("\n", at, match.start())
        at = match.start()
        line = _Word("", number, match[1].strip())
        try:
            size += len(match[0])
            if size > DIRECTIVES_LIMIT:
                raise ValueError(f"these lines have more than {DIRECTIVES_LIMIT} characters")
            words = _words(match[1])
        except ValueError as error:
            raise line.wrong(error) from error
        yield from (_Word(word, number, line.line) for word in words)


def _words(line: str) -> list[str]:
    """Words by sbatch's own rules (measured), which are not the shell's: a backslash counts inside all quotes.

    # ends the line also inside a word. A blank after a backslash is kept, as from 24.11 on; 22.05 refuses it.
    """
    words: list[str] = []
    word, quote, escaped = "", "", False
    begun = False
    for char in line:
        if not quote and not escaped and char in _BLANK:
            if begun:
                words.append(word)
            word, begun = "", False
            continue
        if char == "#" and not quote and not escaped:
            break
        begun = True
        if escaped:
            word, escaped = word + char, False
        elif char == "\\":
            escaped = True
        elif char == quote:
            quote = ""
        elif char in "'\"" and not quote:
            quote = char
        else:
            word += char
    if quote:
        raise ValueError("No closing quotation")
    # A lone backslash at the line's end, as in a shell command, is nothing to sbatch.
    return [*words, word] if begun and (word or not escaped) else words


def _options(word: str, rest: deque[_Word]) -> Iterator[tuple[Option, Any]]:
    """The options in ``word``, as getopt_long would find them; ``rest``: where an argument may come from."""
    if word.startswith("--"):
        name, equals, argument = word.partition("=")
        yield _with_argument(_long(name), argument if equals else None, rest)
        return
    if word in ("hetjob", "packjob"):
        raise ValueError("heterogeneous jobs cannot be submitted here")
    if not word.startswith("-") or word == "-":
        raise ValueError(f"{word!r} is no option")
    letters = word[1:]
    while letters:
        option = _BY_NAME.get(f"-{letters[0]}")
        if option is None:
            raise ValueError(f"no such option here: -{letters[0]}")
        letters = letters[1:]
        if option.read is not None:
            yield _with_argument(option, letters or None, rest)
            return
        yield option, option.flag


def _with_argument(option: Option, given: str | None, rest: deque[_Word]) -> tuple[Option, Any]:
    if option.read is None:
        if given is not None:
            raise ValueError(f"{option.names[-1]} takes no argument")
        return option, option.flag
    if given is None and option.flag is not None:
        return option, option.flag
    if given is None:
        if not rest:
            raise ValueError(f"{option.names[-1]} needs an argument")
        given = rest.popleft().text
    try:
        return option, option.read(given)
    except ValueError as error:
        raise ValueError(f"{option.names[-1]}: {error}") from error


def _long(name: str) -> Option:
    """The option, also by a beginning that only one has."""
    if name in _BY_NAME:
        return _BY_NAME[name]
    begun = [known for known in _BY_NAME if known.startswith(name)] if len(name) > 2 else []
    if len(begun) == 1:
        return _BY_NAME[begun[0]]
    if begun:
        raise ValueError(f"{name} could be any of {', '.join(begun)}")
    raise ValueError(f"no such option here: {name}")


def environment(exports: tuple[str, ...], here: Mapping[str, str], *, all_travel: bool = False) -> dict[str, str]:
    """``--export``'s values as variables; a name alone takes its value from ``here``.

    Args:
        all_travel: ``here`` travels as a whole anyhow, so ``ALL`` asks for nothing more.

    Raises:
        RequestError: "bad-export": not a name, a name that is not set, or ALL.
    """
    variables: dict[str, str] = {}
    for part in (part for export in exports for part in _split(export)):
        name, equals, value = part.partition("=")
        if part in ("NONE", "NIL") or (part == "ALL" and all_travel):
            continue
        if part == "ALL":
            raise RequestError(
                "--export=ALL: the environment of this machine is not sent to the cluster",
                code="bad-export",
                hint="name the variables that the job needs: --export NAME or --export NAME=VALUE",
            )
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise RequestError(f"--export: {name!r} is not the name of a variable", code="bad-export")
        if not equals and name not in here:
            raise RequestError(f"--export: {name} is not set here", code="bad-export", hint=f"--export {name}=VALUE")
        variables[name] = value if equals else here[name]
    return variables


def _split(export: str) -> list[str]:
    """At commas, but not inside quotes: sbatch's A='x,y',B=2."""
    lexer = shlex.shlex(export, posix=True)
    lexer.whitespace, lexer.whitespace_split, lexer.commenters, lexer.escape = ",", True, "", ""
    try:
        return list(lexer)
    except ValueError as error:
        raise RequestError(f"--export: {error}", code="bad-export") from error
