"""The block grammar of AUKS' own files (auks.conf, auks.acl): ``name { key = value ; ... }``.

Lexical rules, from the protocol notes section 14: ``#`` begins a comment everywhere, inside quotes too; a bare value is
any characters but white space, ``;``, quotes and ``#`` (so braces may stand in it); ``"..."`` drops each backslash and
keeps the character after it, backslash-newline continues; ``'...'`` is literal. Keys are compared without case.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hipercow_slurm.errors import ConfigError

_NAME = re.compile(r"[A-Za-z_.][A-Za-z0-9_.:-]*")
_SPACE = re.compile(r"(?:\s|#[^\n]*)+")
_BARE = re.compile(r"""[^\s;"'#]+""")


@dataclass(frozen=True, slots=True)
class Setting:
    """One assignment; ``key`` in lower case, ``line`` counts from 1."""

    key: str
    value: str
    line: int


@dataclass(frozen=True, slots=True)
class Block:
    """One block with its assignments in order."""

    name: str
    settings: tuple[Setting, ...]
    line: int

    def first(self, key: str) -> Setting | None:
        """The first assignment of ``key``: it is the one that counts."""
        return next((setting for setting in self.settings if setting.key == key), None)


def parse(text: str, file: str) -> list[Block]:
    """Read a whole file.

    Args:
        file: its name, for messages.

    Raises:
        ConfigError: with ``file:line`` of the first character that does not fit.
    """
    source = _Source(text, file)
    blocks = []
    while not source.at_end():
        blocks.append(source.block())
    return blocks


class _Source:
    """A position in the text; every method leaves it behind what it took and the space after."""

    def __init__(self, text: str, file: str) -> None:
        self._text = text
        self._file = file
        self._at = 0
        self._skip_space()

    def at_end(self) -> bool:
        return self._at == len(self._text)

    def block(self) -> Block:
        line = self._line()
        name = self._name("a block name")
        self._sign("{")
        settings = []
        while not self._peek("}"):
            settings.append(self._setting())
        self._sign("}")
        return Block(name, tuple(settings), line)

    def _setting(self) -> Setting:
        line = self._line()
        key = self._name("a key or }")
        self._sign("=")
        value = self._value()
        self._sign(";")
        return Setting(key.lower(), value, line)

    def _value(self) -> str:
        if self._peek('"'):
            return self._double_quoted()
        if self._peek("'"):
            return self._single_quoted()
        match = _BARE.match(self._text, self._at)
        if match is None:
            raise self._expected("a value")
        return self._take(match.end())

    def _double_quoted(self) -> str:
        start, characters = self._line(), []
        self._at += 1
        while not self._peek('"'):
            self._inside_quotes(start)
            if self._peek("\\"):
                self._at += 1
                self._inside_quotes(start)
                if self._peek("\n"):
                    self._at += 1
                    continue
            characters.append(self._text[self._at])
            self._at += 1
        self._take(self._at + 1)
        return "".join(characters)

    def _single_quoted(self) -> str:
        start, begin = self._line(), self._at + 1
        self._at = begin
        while not self._peek("'"):
            self._inside_quotes(start)
            self._at += 1
        value = self._text[begin : self._at]
        self._take(self._at + 1)
        return value

    def _inside_quotes(self, start: int) -> None:
        if self._at >= len(self._text) or self._peek("#"):
            why = "the file ends inside quotes" if self.at_end() else "a quoted value cannot contain #"
            raise ConfigError(f"{self._file}:{start}: {why}")

    def _name(self, what: str) -> str:
        match = _NAME.match(self._text, self._at)
        if match is None:
            raise self._expected(what)
        return self._take(match.end())

    def _sign(self, sign: str) -> None:
        if not self._peek(sign):
            raise self._expected(sign)
        self._take(self._at + 1)

    def _peek(self, sign: str) -> bool:
        return self._text.startswith(sign, self._at)

    def _take(self, end: int) -> str:
        taken, self._at = self._text[self._at : end], end
        self._skip_space()
        return taken

    def _skip_space(self) -> None:
        match = _SPACE.match(self._text, self._at)
        if match is not None:
            self._at = match.end()

    def _line(self) -> int:
        return self._text.count("\n", 0, self._at) + 1

    def _expected(self, what: str) -> ConfigError:
        found = repr(self._text[self._at]) if not self.at_end() else "the end of the file"
        return ConfigError(f"{self._file}:{self._line()}: {what} expected, {found} found")
