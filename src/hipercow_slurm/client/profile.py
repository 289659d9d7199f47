"""Where the API is, and the session of whoever is logged in.

    configuration   ~/.config/hipercow-slurm/config.toml, else /etc/hipercow-slurm/client.toml
                    keys: url, ca (PEM file, relative to the configuration), username
    session         ~/.local/state/hipercow-slurm/session.json (0600)

(Folders as platformdirs has them for each system; the environment's HIPERCOW_SLURM_URL and HIPERCOW_SLURM_CA win.)

Rule 1: a session belongs to the URL it was made at: the two are stored together, and used together.
Rule 2: the file holds the session's token and never a password; it is written aside and renamed, for its owner only.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import platformdirs

from hipercow_slurm.errors import ConfigError, CredentialError

APPLICATION = "hipercow-slurm"
SITE = Path("/etc/hipercow-slurm/client.toml")
KEYS = ("url", "ca", "username")
LOG_IN = "hipercow-slurm login"


@dataclass(frozen=True, slots=True)
class Settings:
    """Where to log in; None for what nobody has said."""

    url: str | None = None
    ca: str | None = None
    username: str | None = None


@dataclass(frozen=True, slots=True)
class Saved:
    """What is remembered between commands; without ``token`` only what the next login may begin with."""

    url: str
    ca: str | None
    username: str
    principal: str | None = None
    token: str | None = field(default=None, repr=False)


def config_file() -> Path:
    """The user's configuration."""
    return platformdirs.user_config_path(APPLICATION, appauthor=False) / "config.toml"


def session_file() -> Path:
    """The user's session."""
    return platformdirs.user_state_path(APPLICATION, appauthor=False) / "session.json"


def settings(*, url: str | None = None, ca: str | None = None) -> Settings:
    """What was given, else the environment, else the user's file, else the site's, else the last login.

    The authority goes with the URL: a ``ca`` is taken from where the URL is, so that one site's authority never
    vouches for another's server.

    Raises:
        ConfigError: a file cannot be read or has an unknown key.
    """
    given = Settings(url=url, ca=_absolute(ca, Path.cwd()))
    environment = Settings(
        url=os.environ.get("HIPERCOW_SLURM_URL") or None,
        ca=_absolute(os.environ.get("HIPERCOW_SLURM_CA"), Path.cwd()),
    )
    sources = [given, environment, *(_read(path) for path in (config_file(), SITE)), _last()]
    found = next((source for source in sources if source.url), Settings())
    return Settings(
        url=found.url,
        ca=given.ca or environment.ca or found.ca or next((s.ca for s in sources if s.ca and s.url == found.url), None),
        username=next((source.username for source in sources if source.username), None),
    )


def _last() -> Settings:
    try:
        saved = load()
    except ConfigError:
        # Whatever is wrong with that file, the login that asks will write a new one.
        return Settings()
    return Settings(saved.url, saved.ca, saved.username) if saved else Settings()


def _read(path: Path) -> Settings:
    """One configuration file; no file is no settings."""
    try:
        document: Mapping[str, object] = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Settings()
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    for key, value in document.items():
        if key not in KEYS:
            raise ConfigError(f"{path}: unknown key {key!r}", hint=f"the keys are {', '.join(KEYS)}")
        if not isinstance(value, str) or not value:
            raise ConfigError(f"{path}: {key} is not a text")
    values = {key: str(value) for key, value in document.items()}
    return Settings(values.get("url"), _absolute(values.get("ca"), path.parent), values.get("username"))


def _absolute(path: str | None, base: Path) -> str | None:
    return str(base / Path(path).expanduser()) if path else None


def load() -> Saved | None:
    """What was saved last; None if nothing was, or nothing that this version understands.

    Raises:
        ConfigError: the file is someone else's, or others can read it.
    """
    path = session_file()
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
    if not all(value is None or isinstance(value, str) for value in known.values()):
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


def save(saved: Saved) -> None:
    """Remember ``saved``. Raises ConfigError if it cannot be written."""
    path = session_file()
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


def session() -> Saved:
    """The session to use. Raises CredentialError "not-logged-in"."""
    saved = load()
    if saved is None or saved.token is None:
        raise CredentialError("you are not logged in", code="not-logged-in", hint=LOG_IN)
    return saved
