"""Where the API is, and the session of whoever is logged in; for one cluster or, by name, for several.

    configuration   ~/.config/hipercow-slurm/config.toml, else /etc/hipercow-slurm/client.toml
                    keys: url, ca (PEM file, relative to the configuration), username, keyring (true: log in again
                    by itself with the password in the system's keyring);
                    the same below [clusters.NAME] for further ones, and default = "NAME" for the usual one
    session         ~/.local/state/hipercow-slurm/session.json, session-NAME.json (0600)

(Folders as platformdirs has them for each system. The environment's HIPERCOW_SLURM_CLUSTER names a cluster, and
HIPERCOW_SLURM_URL and HIPERCOW_SLURM_CA win where nobody has named one.)

Rule 1: a session belongs to the URL it was made at: the two are stored together, and used together.
Rule 2: the file holds the session's token and never a password; it is written aside and renamed, for its owner only.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import platformdirs

from hipercow_slurm.errors import ConfigError

APPLICATION = "hipercow-slurm"
SITE = Path("/etc/hipercow-slurm/client.toml")
TEXTS = ("url", "ca", "username")
KEYS = (*TEXTS, "keyring")
LOG_IN = "hipercow-slurm login"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, slots=True)
class Settings:
    """Where to log in; None for what nobody has said."""

    url: str | None = None
    ca: str | None = None
    username: str | None = None
    keyring: bool = False


@dataclass(frozen=True, slots=True)
class Configuration:
    """A configuration file; the cluster without a name is ``clusters[None]``."""

    clusters: Mapping[str | None, Settings]
    default: str | None = None


@dataclass(frozen=True, slots=True)
class Saved:
    """What is remembered between commands; without ``token`` only what the next login may begin with."""

    url: str
    ca: str | None
    username: str
    principal: str | None = None
    token: str | None = field(default=None, repr=False)
    keyring: bool = False


def config_file() -> Path:
    """The user's configuration."""
    return platformdirs.user_config_path(APPLICATION, appauthor=False) / "config.toml"


def session_file(name: str | None = None) -> Path:
    """The user's session with the cluster ``name``."""
    folder = platformdirs.user_state_path(APPLICATION, appauthor=False)
    return folder / (f"session-{name}.json" if name else "session.json")


def chosen(name: str | None) -> str | None:
    """The cluster to use: ``name``, else the environment's, else the configuration's default; None: the unnamed.

    Raises:
        ConfigError: it is no name for a cluster, or a file cannot be read.
    """
    name = name or os.environ.get("HIPERCOW_SLURM_CLUSTER") or None
    if name is None and not os.environ.get("HIPERCOW_SLURM_URL"):
        name = next((found.default for found in _configurations() if found.default), None)
    _check(name)
    return name


def _check(name: str | None) -> None:
    """A cluster's name becomes part of a file's name."""
    if name is not None and not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no name for a cluster", code="no-cluster", hint="letters, digits, . _ -")


def names() -> list[str | None]:
    """Every cluster there is: in the configuration, or logged in to; None is the unnamed one."""
    found = {name for configuration in _configurations() for name in configuration.clusters}
    with contextlib.suppress(OSError):
        for path in session_file().parent.glob("session*.json"):
            found.add(path.stem.partition("-")[2] or None)
    return sorted(found, key=lambda name: name or "")


def settings(name: str | None = None, *, url: str | None = None, ca: str | None = None) -> Settings:
    """What was given, else the environment, else the user's file, else the site's, else the last login.

    The authority goes with the URL: a ``ca`` is taken from where the URL is, so that one site's authority never
    vouches for another's server.

    Raises:
        ConfigError: a file cannot be read or has an unknown key; "no-cluster": nobody knows ``name``, or it is none.
    """
    _check(name)
    given = Settings(url=url, ca=_absolute(ca, Path.cwd()))
    environment = Settings(
        url=os.environ.get("HIPERCOW_SLURM_URL") or None,
        ca=_absolute(os.environ.get("HIPERCOW_SLURM_CA"), Path.cwd()),
    )
    files = [found.clusters.get(name, Settings()) for found in _configurations()]
    sources = [given, *([environment] if name is None else []), *files, _last(name)]
    found = next((source for source in sources if source.url), Settings())
    if found.url is None and name is not None:
        known = ", ".join(filter(None, names())) or "none"
        raise ConfigError(
            f"there is no cluster {name!r}; known: {known}",
            code="no-cluster",
            hint=f"{LOG_IN} --cluster {name} --url https://HOST:PORT, or [clusters.{name}] in {config_file()}",
        )
    return Settings(
        url=found.url,
        ca=given.ca or environment.ca or found.ca or next((s.ca for s in sources if s.ca and s.url == found.url), None),
        username=next((source.username for source in sources if source.username), None),
        keyring=any(source.keyring for source in sources if source.url == found.url),
    )


def _last(name: str | None) -> Settings:
    try:
        saved = load(name)
    except ConfigError:
        # Whatever is wrong with that file, the login that asks will write a new one.
        return Settings()
    return Settings(saved.url, saved.ca, saved.username, saved.keyring) if saved else Settings()


def _configurations() -> list[Configuration]:
    return [_read(path) for path in (config_file(), SITE)]


def _read(path: Path) -> Configuration:
    """One configuration file; no file is no settings."""
    try:
        document: dict[str, object] = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Configuration({})
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    default, tables = document.pop("default", None), document.pop("clusters", {})
    if default is not None and not isinstance(default, str):
        raise ConfigError(f"{path}: default is not a text")
    if not isinstance(tables, dict):
        raise ConfigError(f"{path}: clusters is not a table", hint="[clusters.NAME]")
    clusters: dict[str | None, Settings] = {None: _settings(path, "", document)} if document else {}
    for name, table in tables.items():
        if not _NAME.fullmatch(name) or not isinstance(table, dict):
            raise ConfigError(f"{path}: [clusters.{name}] is no table with the name of a cluster")
        clusters[name] = _settings(path, f"clusters.{name}.", table)
    return Configuration(clusters, default)


def _settings(path: Path, where: str, table: Mapping[str, object]) -> Settings:
    for key, value in table.items():
        if key not in KEYS:
            raise ConfigError(
                f"{path}: unknown key {where + key!r}", hint=f"the keys are {', '.join(KEYS)}; default, clusters"
            )
        if key == "keyring" and not isinstance(value, bool):
            raise ConfigError(f"{path}: {where}{key} is neither true nor false")
        if key in TEXTS and (not isinstance(value, str) or not value):
            raise ConfigError(f"{path}: {where}{key} is not a text")
    texts = {key: str(table[key]) for key in TEXTS if key in table}
    return Settings(
        texts.get("url"), _absolute(texts.get("ca"), path.parent), texts.get("username"), bool(table.get("keyring"))
    )


def _absolute(path: str | None, base: Path) -> str | None:
    return str(base / Path(path).expanduser()) if path else None


def load(name: str | None = None) -> Saved | None:
    """What was saved last; None if nothing was, or nothing that this version understands.

    Raises:
        ConfigError: the file is someone else's, or others can read it.
    """
    path = session_file(name)
    try:
        with path.open("rb") as file:
            _only_ours(path, os.fstat(file.fileno()))
            document = json.loads(file.read(1 << 20))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    except ValueError:
        return None
    if not isinstance(document, dict):
        return None
    known = {item.name: document.get(item.name) for item in fields(Saved)}
    if not all(isinstance(known[key], str) for key in ("url", "username")):
        return None
    known["keyring"] = known["keyring"] is True
    if not all(value is None or isinstance(value, str | bool) for value in known.values()):
        return None
    return Saved(**known)  # type: ignore[arg-type]  # checked in the lines above


def _only_ours(path: Path, status: os.stat_result) -> None:
    """A session that others can read is theirs too, and one that others wrote would send our jobs to them."""
    if sys.platform == "win32":
        return
    if status.st_uid != os.geteuid():
        raise ConfigError(f"{path} belongs to another user", code="session-unsafe", hint=LOG_IN)
    if status.st_mode & 0o077:
        raise ConfigError(
            f"others can read {path}, and with it your session",
            code="session-unsafe",
            hint=f"{LOG_IN} (and on a file system without modes, set XDG_STATE_HOME to a folder elsewhere)",
        )


def save(saved: Saved, name: str | None = None) -> None:
    """Remember ``saved``. Raises ConfigError if it cannot be written."""
    path = session_file(name)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # mkstemp makes the file with mode 0600 and never through a link.
        descriptor, aside = tempfile.mkstemp(prefix=".session-", dir=path.parent)
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                json.dump(asdict(saved), file)
                file.flush()
                os.fsync(file.fileno())
            Path(aside).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(aside).unlink()
            raise
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error}", hint="is your home directory writable?") from error
