"""Who has which role: the rules of an AUKS ACL file, first match wins.

    rule { principal = ^host/[a-z0-9.]+@EX\\.ORG$ ; host = * ; role = admin ; }

``principal`` is a POSIX extended expression, searched in the full principal text, or ``*``. ``host`` is ``*``, an IPv4
address or a name (resolved once, at load; the original compares with a literal ``*`` and so never matches).
``role`` is guest, user, admin or, ours alone, node. What the original ignores silently is a warning here, what it
trips over an error; both name file and line. Source: protocol notes, section 8.
"""

from __future__ import annotations

import functools
import ipaddress
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from hipercow_slurm.auksconf import grammar
from hipercow_slurm.auksconf.grammar import Block, Setting
from hipercow_slurm.auksd.posix_regex import PosixRegex
from hipercow_slurm.errors import ConfigError

KEYS = ("principal", "host", "role")
_REMEMBER = 10_000  # (principal, peer) pairs; a cache, so it is simply emptied when full

Resolver = Callable[[str], Iterable[str]]


class Role(Enum):
    """What a principal may do: see ``deciding.MAY``."""

    GUEST = "guest"
    USER = "user"
    ADMIN = "admin"
    NODE = "node"

    __hash__ = object.__hash__  # Enum's own is Python code, and roles are looked up several times per request


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule; ``principal`` None means any, ``hosts`` None means any, an empty set matches nobody."""

    principal: PosixRegex | None
    hosts: frozenset[str] | None
    role: Role
    line: int

    def matches(self, principal: str, peer: str) -> bool:
        """True for a requester with that principal text at that IPv4 address."""
        if self.hosts is not None and peer not in self.hosts:
            return False
        return self.principal is None or self.principal.search(principal)


class Acl:
    """The rules in order.

    Attributes:
        warnings: ``file:line: sentence`` for whatever an admin should look at.
    """

    def __init__(self, rules: Iterable[Rule], warnings: Iterable[str] = ()) -> None:
        self.rules = tuple(rules)
        self.warnings = tuple(warnings)
        self._known: dict[tuple[str, str], Role | None] = {}

    def gives(self, role: Role) -> bool:
        """True if some rule gives that role."""
        return any(rule.role is role for rule in self.rules)

    def role(self, principal: str, peer: str) -> Role | None:
        """The role of the first rule that matches, or None."""
        key = (principal, peer)
        if key not in self._known:
            if len(self._known) >= _REMEMBER:
                self._known.clear()
            found = (rule.role for rule in self.rules if rule.matches(principal, peer))
            self._known[key] = next(found, None)
        return self._known[key]


def load(path: Path, *, lenient: bool = False) -> Acl:
    """Read an ACL file.

    Args:
        lenient: an expression that does not compile is a warning and its rule matches nobody, as with AUKS.

    Raises:
        ConfigError: it cannot be read, or what ``parse`` raises.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read ACL {path}: {error}") from error
    return parse(text, str(path), lenient=lenient)


def parse(text: str, file: str, *, resolve: Resolver | None = None, lenient: bool = False) -> Acl:
    """Read the text of an ACL file.

    Args:
        file: its name, for messages.
        resolve: name to IPv4 addresses, none when unknown; the system's resolver by default.
        lenient: see ``load``.

    Raises:
        ConfigError: bad grammar, a rule without principal or host, an unknown role, an expression that does not
            compile, or no rule at all.
    """
    return of_blocks(grammar.parse(text, file), file, resolve=resolve, lenient=lenient)


def of_blocks(blocks: Iterable[Block], file: str, *, resolve: Resolver | None = None, lenient: bool = False) -> Acl:
    """The rules in these blocks; see ``parse``."""
    reading = _Reading(file, resolve or _resolve, lenient=lenient)
    rules = [rule for block in blocks if (rule := reading.rule(block)) is not None]
    if not rules:
        raise ConfigError(f"{file}: there is no rule in it, so nobody could do anything")
    return Acl(rules, reading.warnings)


class _Reading:
    """Turns blocks into rules and collects warnings."""

    def __init__(self, file: str, resolve: Resolver, *, lenient: bool) -> None:
        self._file = file
        self._resolve = functools.cache(resolve)
        self._lenient = lenient
        self.warnings: list[str] = []

    def rule(self, block: Block) -> Rule | None:
        if block.name != "rule":
            self._warn(block.line, f"block {block.name!r} is ignored; only 'rule' means something here")
            return None
        self._check_keys(block)
        for key in ("principal", "host"):
            if block.first(key) is None:
                raise self._error(block.line, f"the rule has no {key}")
        if block.first("role") is None:
            self._warn(block.line, "the rule has no role and is skipped")
            return None
        hosts, role = self._hosts(self._setting(block, "host")), self._role(self._setting(block, "role"))
        try:
            return Rule(self._principal(self._setting(block, "principal")), hosts, role, block.line)
        except ConfigError as error:
            if not self._lenient:
                raise
            self.warnings.append(f"{error.message}; the rule matches nobody")
            return None

    def _setting(self, block: Block, key: str) -> Setting:
        setting = block.first(key)
        assert setting is not None
        return setting

    def _check_keys(self, block: Block) -> None:
        seen: set[str] = set()
        for setting in block.settings:
            if setting.key not in KEYS:
                self._warn(setting.line, f"unknown key {setting.key!r} is ignored")
            elif setting.key in seen:
                self._warn(setting.line, f"{setting.key} is given again; the first one counts")
            seen.add(setting.key)

    def _principal(self, setting: Setting) -> PosixRegex | None:
        if setting.value == "*":
            return None
        try:
            compiled = PosixRegex(setting.value)
        except ValueError as error:
            raise self._error(setting.line, f"principal {setting.value!r} does not compile: {error}") from error
        if not setting.value.startswith("^") or not setting.value.endswith("$"):
            self._warn(
                setting.line,
                f"principal {setting.value!r} is not anchored with ^ and $; it matches inside longer names",
            )
        return compiled

    def _hosts(self, setting: Setting) -> frozenset[str] | None:
        if setting.value == "*":
            return None
        if self._lenient:
            self._warn(setting.line, f"host {setting.value!r} counts from now on; AUKS never matched such a rule")
        try:
            return frozenset({str(ipaddress.IPv4Address(setting.value))})
        except ValueError:
            found = frozenset(self._resolve(setting.value))
        if not found:
            self._warn(setting.line, f"host {setting.value!r} has no IPv4 address; the rule matches nobody")
        return found

    def _role(self, setting: Setting) -> Role:
        if setting.value.startswith("guest"):  # as the original reads it
            return Role.GUEST
        if setting.value in ("user", "admin", "node"):
            return Role(setting.value)
        raise self._error(setting.line, f"unknown role {setting.value!r}; guest, user, admin or node")

    def _warn(self, line: int, text: str) -> None:
        self.warnings.append(f"{self._file}:{line}: {text}")

    def _error(self, line: int, text: str) -> ConfigError:
        return ConfigError(f"{self._file}:{line}: {text}")


def _resolve(name: str) -> set[str]:
    try:
        return {str(info[4][0]) for info in socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)}
    except OSError:
        return set()
