"""``auks.conf`` as AUKS' own programs read it: blocks, keys, defaults, and what to tell the admin about the file.

The original ignores what it does not know, so a file that works there must load here: whatever is merely odd becomes a
finding, ``file:line: sentence``, and only what the original refuses as well is an error. Source: protocol notes,
section 14.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hipercow_slurm.auksconf import grammar
from hipercow_slurm.auksconf.grammar import Block, Setting
from hipercow_slurm.errors import ConfigError

DEFAULT_PORT = 12345
INCOMPLETE = "auks-conf-incomplete"
UNREADABLE = "auks-conf-unreadable"

_LOGGING = ("logfile", "loglevel", "debugfile", "debuglevel")
_ENDS = ("primary", "secondary")

# block -> keys; keys of the original, in lower case
KEYS: dict[str, frozenset[str]] = {
    "common": frozenset(
        {end + part for end in _ENDS for part in ("host", "address", "port", "principal")}
        | {"crossrealm", "nat", "retries", "timeout", "delay"}
    ),
    "api": frozenset({*_LOGGING, "usesyslog", "helperscript"}),
    "auksd": frozenset(
        {*_LOGGING, "primarykeytab", "secondarykeytab", "cachedir", "aclfile", "cleandelay", "replaycache"}
        | {"workers", "queuesize", "reposize"}
    ),
    "renewer": frozenset({*_LOGGING, "delay", "minlifetime"}),
}

# A file of AUKS begins with a block; a TOML file never does.
_BEGINS = re.compile(r"(?:\s|#[^\n]*(?:\n|\Z))*[A-Za-z_.][A-Za-z0-9_.:-]*\s*\{")


@dataclass(frozen=True, slots=True)
class End:
    """One of the two servers: ``host`` names the machine, ``address`` is where to connect to or listen on."""

    host: str
    address: str
    port: int
    principal: str


@dataclass(frozen=True, slots=True)
class AuksConf:
    """What a file says, defaults filled in; times in seconds.

    Attributes:
        keytabs: of the primary and the secondary daemon.
        cache_dir, acl_file: None where the file does not say.
        min_life_s: None where the file does not say; AUKS takes 300.
        noted: (block, key) of every setting that counts, to tell what was given from what is a default.
        findings: ``file:line: sentence`` for whatever is odd.
    """

    file: str
    primary: End
    secondary: End
    cross_realm: str
    nat: bool
    retries: int
    timeout_s: int
    delay_s: int
    helper: str
    keytabs: tuple[str, str]
    cache_dir: str | None
    acl_file: str | None
    renew_delay_s: int
    min_life_s: int | None
    noted: dict[tuple[str, str], Setting]
    findings: tuple[str, ...]

    def servers(self) -> list[End]:
        """The servers a client tries, in order: those with a principal, each once."""
        return list(dict.fromkeys(end for end in (self.primary, self.secondary) if end.principal))


def is_auks(path: Path) -> bool:
    """True if the file is in AUKS' grammar and not TOML; a file that cannot be read is told by its name."""
    try:
        return _BEGINS.match(path.read_text(encoding="utf-8")) is not None or path.suffix == ".conf"
    except (OSError, UnicodeDecodeError):
        return path.suffix == ".conf"


def load(path: Path, *, daemon: bool) -> AuksConf:
    """Read a file for a daemon or for a client.

    Raises:
        ConfigError: ``auks-conf-unreadable`` (also bad grammar, with the line) or ``auks-conf-incomplete``.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read configuration {path}: {error}", code=UNREADABLE) from error
    return parse(text, str(path), daemon=daemon)


def parse(text: str, file: str, *, daemon: bool) -> AuksConf:
    """Read the text of a file; see ``load``."""
    try:
        blocks = grammar.parse(text, file)
    except ConfigError as error:
        raise ConfigError(error.message, code=UNREADABLE) from error
    return _Reading(file, blocks, daemon).result()


class _Reading:
    """Picks the blocks, looks keys up, collects findings."""

    def __init__(self, file: str, blocks: list[Block], daemon: bool) -> None:
        self._file = file
        self._findings: list[tuple[int, str]] = []
        self._noted: dict[tuple[str, str], Setting] = {}
        self._blocks: dict[str, Block] = {}
        self._pick(blocks, daemon)

    def result(self) -> AuksConf:
        primary, secondary = (self._end(end) for end in _ENDS)
        return AuksConf(
            file=self._file,
            primary=primary,
            secondary=secondary,
            cross_realm=self._text("common", "crossrealm") or "",
            nat=self._yes("common", "nat"),
            retries=self._number("common", "retries", 3),
            timeout_s=self._number("common", "timeout", 10),
            delay_s=self._number("common", "delay", 10),
            helper=self._text("api", "helperscript") or "",
            keytabs=(
                self._text("auksd", "primarykeytab") or "/etc/auks/auks.keytab",
                self._text("auksd", "secondarykeytab") or "/etc/auks/auks.keytab",
            ),
            cache_dir=self._text("auksd", "cachedir"),
            acl_file=self._text("auksd", "aclfile"),
            renew_delay_s=self._number("renewer", "delay", 60),
            min_life_s=self._number("renewer", "minlifetime", 300)
            if ("renewer", "minlifetime") in self._noted
            else None,
            noted=self._noted,
            findings=tuple(f"{self._file}:{line}: {text}" for line, text in sorted(self._findings)),
        )

    def _pick(self, blocks: list[Block], daemon: bool) -> None:
        """Which block is which: daemons and clients match names differently."""
        common = [one for one in blocks if (one.name == "common" if daemon else one.name.startswith("common"))]
        wanted = {
            "common": common,
            "api": [one for one in blocks if one.name.startswith("api")],
            "auksd": [one for one in blocks if one.name.startswith("auksd")],
            "renewer": [one for one in blocks if one.name.startswith("ren")],
        }
        needed = ("common", "auksd") if daemon else ("common", "api")
        for name, found in wanted.items():
            if len(found) != 1 and name in needed:
                lines = ", ".join(str(one.line) for one in found)
                what = f"{len(found)} blocks {name!r} (lines {lines})" if found else f"no block {name!r}"
                raise ConfigError(f"{self._file}: {what}; there must be one", code=INCOMPLETE)
            for other in found[1:]:
                self._find(other.line, f"block {other.name!r} is given again; the first one counts")
            if found:
                self._blocks[name] = found[0]
                self._look(name, found[0])
        known = [id(one) for found in wanted.values() for one in found]
        for one in blocks:
            if id(one) not in known:
                self._find(one.line, f"unknown block {one.name!r} is ignored")

    def _look(self, name: str, block: Block) -> None:
        for setting in block.settings:
            if setting.key not in KEYS[name]:
                self._find(setting.line, f"unknown key {setting.key!r} in block {name!r} is ignored")
            elif (name, setting.key) in self._noted:
                self._find(setting.line, f"{setting.key} is given again; the first one counts")
            else:
                self._noted[name, setting.key] = setting

    def _end(self, end: str) -> End:
        host = self._text("common", end + "host") or "localhost"
        return End(
            host=host,
            address=self._text("common", end + "address") or host,
            port=self._number("common", end + "port", DEFAULT_PORT, limit=65535),
            principal=self._text("common", end + "principal") or "",
        )

    def _text(self, block: str, key: str) -> str | None:
        setting = self._noted.get((block, key))
        return setting.value if setting is not None and setting.value else None

    def _number(self, block: str, key: str, default: int, *, limit: int = 2**31 - 1) -> int:
        setting = self._noted.get((block, key))
        if setting is None or not setting.value:
            return default
        if not re.fullmatch(r"[0-9]{1,10}", setting.value) or int(setting.value) > limit:
            self._find(setting.line, f"{key} = {setting.value!r} is not a number up to {limit}; {default} is taken")
            return default
        return int(setting.value)

    def _yes(self, block: str, key: str) -> bool:
        setting = self._noted.get((block, key))
        if setting is not None and setting.value.lower() not in ("yes", "no", ""):
            self._find(setting.line, f"{key} = {setting.value!r} means no; only yes and no mean anything")
        return setting is not None and setting.value.lower() == "yes"

    def _find(self, line: int, text: str) -> None:
        self._findings.append((line, text))


def one_of(paths: Iterable[Path]) -> Path | None:
    """The first of these that exists."""
    return next((path for path in paths if path.exists()), None)
