"""One configuration in the other's words: ``auks.conf`` and ACL to TOML and back. Text in, text out.

What both can say survives both ways; the rest is listed for the admin by ``left_out`` of the result.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from hipercow_slurm.auksconf.conf import AuksConf, End
from hipercow_slurm.auksconf.grammar import Block
from hipercow_slurm.auksd.config import Auksd, Config, Renew
from hipercow_slurm.errors import ConfigError

MAX_VALUE = 1023  # bytes; the original does not check, and overruns a buffer

# Client settings of auks.conf that agent.toml has no key for.
CLIENT_ONLY = ("retries", "timeout", "delay")


@dataclass(frozen=True, slots=True)
class Converted:
    """The text, and a sentence for each thing it does not say."""

    text: str
    left_out: tuple[str, ...] = ()


def daemon_toml(config: Config, rules: Sequence[Block]) -> str:
    """``auksd.toml`` of a configuration; ``rules`` replace its ACL file where there are any."""
    lines = ["[auksd]", *_toml(config.auksd, without=("acl",) if rules else ())]
    lines += ["", "[renew]", *_toml(config.renew)]
    for rule in rules:
        settings = ((key, rule.first(key)) for key in ("principal", "host", "role"))
        lines += ["", "[[rule]]", *(f"{key} = {_quoted(found.value)}" for key, found in settings if found is not None)]
    return "\n".join(lines) + "\n"


def cache_toml(conf: AuksConf) -> Converted:
    """Section ``[cache]`` of ``agent.toml``: the servers clients ask."""
    lines = ["[cache]", "servers = ["]
    for end in conf.servers():
        nat = ", nat = true" if conf.nat else ""
        host, principal = _quoted(end.address), _quoted(end.principal)
        lines.append(f"    {{ host = {host}, port = {end.port}, principal = {principal}{nat} }},")
    left_out = [
        f"{conf.file}:{setting.line}: {key} is a client's, and stays with auks.conf (hipercow-slurm auks reads it)"
        for (_, key), setting in conf.noted.items()
        if key in CLIENT_ONLY and setting.value
    ]
    lines.append("]")
    for key, value in (("cross_realm", conf.cross_realm), ("helper", conf.helper)):
        if value:
            lines.append(f"{key} = {_quoted(value)}")
    return Converted("\n".join(lines) + "\n", tuple(left_out))


@dataclass(frozen=True, slots=True)
class Clients:
    """What clients are told: ``servers`` in order, whether they are behind NAT, CrossRealm, HelperScript."""

    servers: Sequence[End] = ()
    nat: bool = False
    cross_realm: str = ""
    helper: str = ""


def auks_conf(config: Config, clients: Clients, *, hostname: str, acl_file: str) -> Converted:
    """``auks.conf`` of a daemon's configuration.

    Args:
        clients: without servers they get the daemon's own address.
        hostname: this machine's name, which makes it the primary.
        acl_file: where the rules will be.

    Raises:
        ConfigError: a value cannot be written in AUKS' grammar.
    """
    section, servers = config.auksd, clients.servers
    address, port = section.address()
    own = End(hostname, servers[0].address if servers and address == "0.0.0.0" else address, port, "")  # noqa: S104
    common = {
        "PrimaryHost": own.host,
        "PrimaryAddress": own.address,
        "PrimaryPort": str(own.port),
        "PrimaryPrincipal": section.principal or "",
    }
    for end in servers[1:2]:
        common |= {
            "SecondaryHost": end.host,
            "SecondaryAddress": end.address,
            "SecondaryPort": str(end.port),
            "SecondaryPrincipal": end.principal,
        }
    auksd = {"PrimaryKeytab": section.keytab, "ACLFile": acl_file}
    if section.import_dir is not None:
        auksd["CacheDir"] = section.import_dir
    blocks = [
        ("common", {**common, "CrossRealm": clients.cross_realm, "NAT": "yes" if clients.nat else "no"}),
        ("api", {"HelperScript": clients.helper} if clients.helper else {}),
        ("auksd", auksd),
        ("renewer", {"MinLifeTime": str(int(config.renew.margin_s))}),
    ]
    left_out = [
        *(f"auksd.{key} = {value}" for key, value in _unsaid(section, _SAID_AUKSD)),
        *(f"renew.{key} = {value}" for key, value in _unsaid(config.renew, _SAID_RENEW)),
        *(f"section [{name}]" for name in _other_sections(config)),
        *(f"[[rule]] {number}: AUKS' own auksd refuses role node" for number in _node_rules(config)),
        *(f"cache.servers[{number}]: auks.conf has two" for number in range(2, len(servers))),
    ]
    return Converted("\n".join(_block(name, values) for name, values in blocks), tuple(left_out))


def acl(rules: Iterable[Block]) -> str:
    """An ACL file of rules."""
    return "".join(_block(rule.name, {one.key: one.value for one in rule.settings}) for rule in rules)


# What auks.conf has words for; everything else in these sections is listed when it is not at its default.
_SAID_AUKSD = ("keytab", "acl", "principal", "import_dir", "listen")
_SAID_RENEW = ("margin_s",)


def _unsaid(section: Auksd | Renew, said: Sequence[str]) -> list[tuple[str, object]]:
    return _changed(section, [field.name for field in msgspec.structs.fields(section) if field.name not in said])


def _changed(section: Auksd | Renew, keys: Iterable[str]) -> list[tuple[str, object]]:
    """Keys that are not at their default, with their values."""
    defaults = {field.name: field.default for field in msgspec.structs.fields(section)}
    return [(key, getattr(section, key)) for key in keys if getattr(section, key) != defaults[key]]


def _other_sections(config: Config) -> list[str]:
    """Sections that auks.conf knows nothing of and that are not at their default."""
    known = ("auksd", "renew", "rule")
    fields = [field for field in msgspec.structs.fields(Config) if field.name not in known]
    return [field.name for field in fields if getattr(config, field.name) != field.default]


def _node_rules(config: Config) -> list[int]:
    return [number for number, rule in enumerate(config.rule, start=1) if rule.role == "node"]


def _toml(section: Auksd | Renew, *, without: Sequence[str] = ()) -> list[str]:
    """Lines of everything that is required or not at its default."""
    keys = [field.name for field in msgspec.structs.fields(section) if field.name not in without]
    values = [(key, value) for key, value in _changed(section, keys) if isinstance(value, str | int | float)]
    return [f"{key} = {_quoted(value) if isinstance(value, str) else str(value).lower()}" for key, value in values]


def _quoted(text: str) -> str:
    """A TOML string: literal where that is easier on regular expressions."""
    if "\\" in text and "'" not in text and text.isprintable():
        return f"'{text}'"
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _block(name: str, values: dict[str, str]) -> str:
    return (
        f"{name} {{\n" + "".join(f"    {key} = {_auks_quoted(key, text)} ;\n" for key, text in values.items()) + "}\n"
    )


def _auks_quoted(key: str, text: str) -> str:
    """A value in AUKS' grammar.

    Raises:
        ConfigError: it cannot hold a ``#`` in quotes, nor more than 1023 bytes.
    """
    if "#" in text or len(text.encode()) > MAX_VALUE or "\0" in text:
        raise ConfigError(f"{key} = {text[:60]!r} cannot be said in AUKS' grammar: a #, a NUL, or over 1023 bytes")
    if "'" not in text:
        return f"'{text}'"
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
