"""Slurm's short form for many node names, ``c[1-3,7],gpu[01-03]-ib``, into the names themselves.

Rule 1: the size of the answer is known, and refused, before the first name is made. Rule 2: what is not a hostlist
raises; no name is ever guessed. Dimensions written without brackets (``bgl000x333``) are not known here.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator

from hipercow_slurm.errors import ProtocolError

MAX_CHARS = 1 << 20
MAX_NAMES = 100_000
MAX_GROUPS = 8

_PLAIN = re.compile(r"[A-Za-z0-9._-]+")
# One host expression: literals and [ranges] in any order. Slurm before 23 refuses a literal after the last bracket
# (`scontrol show hostnames 'gpu[01-03]-ib'` on 22.05); 24.11 and 26.05 expand it, so we do.
_PIECE = re.compile(r"(?P<text>[A-Za-z0-9._-]+)|\[(?P<ranges>[0-9,-]+)\]")
_RANGE = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")


def expand(text: str, *, max_names: int = MAX_NAMES) -> list[str]:
    """The node names of a hostlist, in its order, duplicates kept; ``""`` names none.

    Raises:
        ProtocolError: not a hostlist, or more than ``max_names`` names or ``MAX_CHARS`` characters.
    """
    if not text:
        return []
    if len(text) > MAX_CHARS:
        raise _error(text, f"longer than {MAX_CHARS} characters")
    names: list[str] = []
    for host in _hosts(text):
        if _PLAIN.fullmatch(host):  # nearly every job has one node
            names.append(host)
        else:
            pieces = [_numbers(text, piece) for piece in _pieces(text, host)]
            room = max_names - len(names)
            if math.prod(len(piece) for piece in pieces) > room:
                raise _error(text, f"more than {max_names} names")
            names += ["".join(parts) for parts in itertools.product(*pieces)]
        if len(names) > max_names:
            raise _error(text, f"more than {max_names} names")
    return names


def _hosts(text: str) -> Iterator[str]:
    """Split at the commas that are outside brackets."""
    start, inside = 0, False
    for at, char in enumerate(text):
        if char == "[":
            inside = True
        elif char == "]":
            inside = False
        elif char == "," and not inside:
            yield text[start:at]
            start = at + 1
    yield text[start:]


def _pieces(text: str, host: str) -> list[str | list[tuple[str, str]]]:
    """A host expression as literals and lists of (low, high)."""
    pieces: list[str | list[tuple[str, str]]] = []
    at = 0
    while match := _PIECE.match(host, at):
        at = match.end()
        if (literal := match["text"]) is not None:
            pieces.append(literal)
        else:
            pieces.append([_bounds(text, part) for part in match["ranges"].split(",")])
    if at != len(host) or not pieces or len(pieces) > 2 * MAX_GROUPS:
        raise _error(text, f"cannot read {host[:60]!r}")
    return pieces


def _bounds(text: str, part: str) -> tuple[str, str]:
    match = _RANGE.fullmatch(part)
    if match is None:
        raise _error(text, f"cannot read the range {part[:60]!r}")
    low, high = match[1], match[2] or match[1]
    # 098-1002 runs past its padding; 008-11 and 1-010 are nothing Slurm writes
    odd = len(high) < len(low) or (len(high) > len(low) and high[0] == "0")
    if odd or int(high) < int(low):
        raise _error(text, f"the range {part[:60]!r} runs backwards or mixes its padding")
    return low, high


class _Numbers:
    """The texts of a list of ranges, counted before they are made; padded as wide as each low bound."""

    def __init__(self, ranges: list[tuple[str, str]]) -> None:
        self._ranges = ranges

    def __len__(self) -> int:
        return sum(int(high) - int(low) + 1 for low, high in self._ranges)

    def __iter__(self) -> Iterator[str]:
        for low, high in self._ranges:
            width = len(low)
            yield from (f"{number:0{width}d}" for number in range(int(low), int(high) + 1))


def _numbers(text: str, piece: str | list[tuple[str, str]]) -> list[str] | _Numbers:
    return [piece] if isinstance(piece, str) else _Numbers(piece)


def _error(text: str, why: str) -> ProtocolError:
    return ProtocolError(f"hostlist {text[:80]!r}: {why}", code="hostlist-malformed")
