"""The system's keyring (macOS Keychain, Windows Credential Locker, Secret Service), if its library is installed.

A password is there only if its owner asked for it: ``hipercow-slurm login --keyring``.
"""

from __future__ import annotations

from typing import Any

from hipercow_slurm.errors import ConfigError

SERVICE = "hipercow-slurm"


def password(url: str, username: str) -> str | None:
    """The password kept for ``username`` at ``url``; None: there is none. Raises ConfigError "no-keyring"."""
    found = _call("get_password", url, username)
    return str(found) if found else None


def keep(url: str, username: str, secret: str) -> None:
    """Keep a password. Raises ConfigError "no-keyring"."""
    _call("set_password", url, username, secret)


def forget(url: str, username: str) -> bool:
    """Remove a password; False: there was none. Raises ConfigError "no-keyring"."""
    if password(url, username) is None:
        return False
    _call("delete_password", url, username)
    return True


def _call(name: str, url: str, username: str, *secret: str) -> Any:
    try:
        import keyring
        from keyring.errors import KeyringError, NoKeyringError
    except ImportError as error:
        raise ConfigError(
            "the library for the system's keyring is not installed",
            code="no-keyring",
            hint="pip install 'hipercow-slurm[keyring]'",
        ) from error
    try:
        return getattr(keyring, name)(f"{SERVICE} {url}", username, *secret)
    except NoKeyringError as error:
        raise ConfigError("this system has no keyring", code="no-keyring", hint="log in without --keyring") from error
    except KeyringError as error:
        # Its words name the backend's trouble (locked, denied), never the secret.
        raise ConfigError(f"the system's keyring refuses: {error}", code="no-keyring", hint="unlock it") from error
