"""``hipercow-slurm upload``: the user's own TGT to the credential cache, authenticated with itself.

It runs inside every srun and sbatch on a login node, so it imports little and has short deadlines.
"""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hipercow_slurm.client import stamp
from hipercow_slurm.client.auks_blocking import BlockingAuksClient
from hipercow_slurm.client.auks_steps import DEFAULT_PORT, Limits, Server
from hipercow_slurm.client.preparing import prepare
from hipercow_slurm.errors import ConfigError
from hipercow_slurm.krb5 import ccache as ccaches

# A user waits for the prompt: one try after the first, and give up within 10 s.
LIMITS = Limits(connect_s=2.0, read_s=5.0, kdc_s=5.0, total_s=10.0, rounds=2, delay_s=0.5)

_TYPES: dict[str, type] = {"host": str, "principal": str, "port": int, "nat": bool}


def run(config: Path, ccache: str | None, *, fresh_s: int = 0) -> str:
    """Upload; a sentence about what was done.

    Args:
        config: TOML with ``[cache] servers = [{ host, port, principal }]`` and perhaps ``cross_realm``.
        ccache: name of a ccache; None for the default one (KRB5CCNAME).
        fresh_s: leave a note that for so many seconds nobody needs to upload this again; 0: none.

    Raises:
        ConfigError: the file is missing or wrong.
        CredentialError: ``no-tgt`` and other trouble with the ticket.
        AccessError, UnavailableError: see ``auks.AuksClient``.
    """
    servers = read_servers(config)
    seen = stamp.look() if fresh_s and ccache is None else None
    auth = ccaches.read_tgt(ccache)
    told: list[str] = []
    (cross_realm,) = read_texts(config, "cross_realm")
    cred = prepare(auth, cross_realm, told.append)
    BlockingAuksClient(servers, limits=LIMITS).add(cred, auth=auth)
    if seen is not None:
        stamp.leave(seen, auth, fresh_s)
    until = datetime.fromtimestamp(cred.times.renew_till or cred.times.endtime, UTC)
    word = "renewable" if cred.times.renew_till else "good"
    done = f"uploaded the ticket of {cred.client}, {word} until {until:%Y-%m-%dT%H:%M:%SZ}"
    return "; ".join([done, *told])


def read_servers(config: Path) -> list[Server]:
    """The servers of section ``[cache]``; the file's other sections are the agent's business.

    Raises:
        ConfigError: with file and key.
    """
    return _servers(config, _section(config))


def read_texts(config: Path, *keys: str) -> list[str]:
    """Optional texts of section ``[cache]``, "" for those that are not there.

    Raises:
        ConfigError: with file and key.
    """
    section = _section(config)
    values = [section.get(key, "") for key in keys]
    for key, value in zip(keys, values, strict=True):
        if not isinstance(value, str):
            raise ConfigError(f"{config}: cache.{key} is not a text")
    return values


def _section(config: Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot read configuration {config}: {error}") from error
    section = document.get("cache")
    return section if isinstance(section, dict) else {}


def _servers(config: Path, section: dict[str, Any]) -> list[Server]:
    listed = section.get("servers")
    if not isinstance(listed, list) or not listed:
        raise ConfigError(f"{config}: [cache] servers is missing or empty")
    return [_server(config, number, one) for number, one in enumerate(listed)]


def _server(config: Path, number: int, given: Any) -> Server:
    where = f"{config}: cache.servers[{number}]"
    if not isinstance(given, dict):
        raise ConfigError(f"{where} is not a table of host, port, principal")
    for key, value in given.items():
        if key not in _TYPES:
            raise ConfigError(f"{where}: unknown key {key!r}")
        if type(value) is not _TYPES[key]:
            raise ConfigError(f"{where}: {key} is not of type {_TYPES[key].__name__}")
    if "host" not in given or "principal" not in given:
        raise ConfigError(f"{where}: host or principal is missing")
    return Server(given["host"], given["principal"], given.get("port", DEFAULT_PORT), given.get("nat", False))
