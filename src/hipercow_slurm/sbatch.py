"""``#SBATCH`` lines, read as sbatch reads them; the options themselves are in ``sbatch_options``.

Pure functions without any dependency, as there.
"""

from __future__ import annotations

import re
import shlex
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hipercow_slurm.errors import RequestError
from hipercow_slurm.sbatch_options import ELSEWHERE, OPTIONS, OWN, Option

__all__ = ["directives", "environment"]

_BY_NAME = {name: option for option in (*OPTIONS, *OWN) for name in option.names}
_OWN = {option.key for option in OWN}
_NAMES = (*_BY_NAME, *ELSEWHERE)

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


def directives(script: str, *, own: bool = False) -> dict[str, Any]:
    """What the ``#SBATCH`` lines of ``script`` ask for, by key; later lines win.

    Args:
        own: also what concerns only the program that submits it (``sbatch_options.OWN``).

    Raises:
        RequestError: "bad-directive", with the line's number.
    """
    found: dict[str, Any] = {}
    words = deque(_words_of(script))
    while words:
        first = words.popleft()
        try:
            for option, value in _options(first.text, words):
                if own or option.key not in _OWN:
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
        option = _named(f"-{letters[0]}")
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
    """The option, also by a beginning that only one of sbatch's has."""
    if name in _NAMES:
        return _named(name)
    begun = [known for known in _NAMES if known.startswith(name)] if len(name) > 2 else []
    if len(begun) > 1:
        raise ValueError(f"{name} could be any of {', '.join(begun)}")
    return _named(begun[0] if begun else name)


def _named(name: str) -> Option:
    if name in ELSEWHERE:
        raise ValueError(f"no such option here: {name}: {ELSEWHERE[name]}")
    if name not in _BY_NAME:
        raise ValueError(f"no such option here: {name}")
    return _BY_NAME[name]


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
