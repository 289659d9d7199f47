"""The signer's RSA keys: making them, loading the one that signs, publishing the public halves as a JWKS.

Slurm reads its JWKS once, at start (22.05: neither reconfigure nor SIGHUP reloads it), and picks the key by
``kid``. So two keys exist at all times: ``current`` signs, ``next`` is published but unused. ``rotate`` makes
next the current one, which slurmctld knows already, and publishes a new next, learned at its next restart.

Rule 1: a private key file belongs to the signer's user and is closed to everyone else, or nothing starts.
Rule 2: the kid is the key's RFC 7638 thumbprint, so that it never has to be stored or configured.
"""

from __future__ import annotations

import json
import os
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import KeyParameters, RSAKey

from hipercow_slurm.errors import ConfigError

BITS = 2048
LIMIT_BYTES = 32 * 1024
PARAMETERS: KeyParameters = {
    "alg": "RS256",
    "use": "sig",
}  # Slurm silently ignores a JWKS entry without alg (22.05.8)


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class SigningKey:
    """The private key in memory; loading one costs 0.1 s (it is checked), signing 1 ms: load once."""

    kid: str
    key: RSAKey

    def __repr__(self) -> str:
        return f"<SigningKey kid={self.kid}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a signing key is never pickled")


def next_of(private: Path) -> Path:
    """Where the next private key lies: ``key.pem`` -> ``key.next.pem``."""
    return private.with_name(f"{private.stem}.next{private.suffix}")


def generate(private: Path, jwks: Path) -> SigningKey:
    """Make the current and the next private key (0600) and the JWKS (0644) with both public halves.

    The private files get the owner of their directory, so that root can prepare them for the signer's user.

    Raises:
        ConfigError: a private key is already there (it is never overwritten), or a file cannot be written.
    """
    for path in (private, next_of(private)):
        if os.path.lexists(path):
            raise ConfigError(
                f"{path} exists already and is not overwritten",
                code="key-exists",
                hint="to change the key: hipercow-slurm signer --rotate",
            )
    current, following = _new_key(), _new_key()
    _write_private(private, current)
    _write_private(next_of(private), following)
    publish(jwks, [current, following])
    return current


def rotate(private: Path, jwks: Path) -> SigningKey:
    """Make the next key the current one, make a new next one, publish both; returns the new current key.

    Restart the signer to sign with it; restart slurmctld before the rotation after this one.

    Raises:
        ConfigError: a key is missing or unsafe, or a file cannot be written.
    """
    owner = _owner_of(private.parent)
    try:
        if os.path.lexists(next_of(private)):
            _read(next_of(private), owner)
            next_of(private).replace(private)
        # else: an earlier rotation stopped half-way, after this rename; what follows finishes it
    except OSError as error:
        raise ConfigError(f"cannot replace {private}: {error.strerror}", code="key-unwritable") from error
    current, following = _read(private, owner), _new_key()
    # Published before it exists as a file: a private key that nobody was told about could become current.
    publish(jwks, [current, following])
    _write_private(next_of(private), following)
    return current


def load_private(path: Path) -> SigningKey:
    """The private key that signs.

    Raises:
        ConfigError: missing, a symbolic link, not owned by this process's user, open to others, too long, or
            not an RSA private key of at least 2048 bits.
    """
    return _read(path, os.geteuid())


def publish(jwks: Path, keys: list[SigningKey]) -> None:
    """Write the public halves as a JWKS (RFC 7517), readable by all, complete or not at all."""
    document = {"keys": [key.key.as_dict(private=False) for key in keys]}
    temporary = jwks.with_name(f".{jwks.name}.new")
    try:
        temporary.unlink(missing_ok=True)
        _create(temporary, json.dumps(document, indent=1).encode() + b"\n", 0o644, owner=None)
        temporary.replace(jwks)
    except OSError as error:
        raise ConfigError(f"cannot write {jwks}: {error.strerror}", code="key-unwritable") from error


def _new_key() -> SigningKey:
    return _checked(RSAKey.generate_key(BITS, PARAMETERS, private=True))


def _checked(key: RSAKey) -> SigningKey:
    return SigningKey(kid := key.thumbprint(), RSAKey.import_key(key.raw_value, {**PARAMETERS, "kid": kid}))


def _owner_of(directory: Path) -> int:
    try:
        return directory.stat().st_uid
    except OSError as error:
        raise ConfigError(f"cannot look at {directory}: {error.strerror}", code="key-unreadable") from error


def _write_private(path: Path, key: SigningKey) -> None:
    pem = key.key.as_pem(private=True)
    owner = _owner_of(path.parent) if os.geteuid() == 0 else None
    try:
        _create(path, pem, 0o600, owner=owner)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}", code="key-unwritable") from error


def _create(path: Path, content: bytes, mode: int, *, owner: int | None) -> None:
    """A new file, complete and on disk before this returns; an existing name or symbolic link is an error."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        if owner is not None:
            os.fchown(fd, owner, -1)
        os.fchmod(fd, mode)
        file.write(content)
        file.flush()
        os.fsync(fd)


def _read(path: Path, owner: int) -> SigningKey:
    """Every check is made on the opened file, so that it cannot be exchanged between check and use."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(
            f"cannot open the signing key {path}: {error.strerror}",
            code="key-unreadable",
            hint="make one with: hipercow-slurm signer --init",
        ) from error
    with os.fdopen(fd, "rb") as file:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise ConfigError(f"the signing key {path} is not a regular file", code="key-unsafe")
        mode = stat.S_IMODE(info.st_mode)
        if info.st_uid != owner or mode & 0o177:
            raise ConfigError(
                f"the signing key {path} has owner uid {info.st_uid} and mode {mode:04o}; "
                f"it must have owner uid {owner} and mode 0600",
                code="key-unsafe",
            )
        pem = file.read(LIMIT_BYTES + 1)
    return _parse(path, pem)


def _parse(path: Path, pem: bytes) -> SigningKey:
    if len(pem) > LIMIT_BYTES:
        raise ConfigError(f"the signing key {path} is longer than {LIMIT_BYTES} bytes", code="key-invalid")
    try:
        with warnings.catch_warnings(action="ignore", category=SecurityWarning):  # short keys: refused below
            key = RSAKey.import_key(pem, PARAMETERS)
    except (JoseError, ValueError, TypeError):
        # The parser's own words are left out: they could quote the file.
        raise ConfigError(f"the signing key {path} is not an RSA key in PEM form", code="key-invalid") from None
    if not key.is_private or key.private_key is None:
        raise ConfigError(f"the signing key {path} is a public key", code="key-invalid")
    if key.private_key.key_size < BITS:
        raise ConfigError(f"the signing key {path} has fewer than {BITS} bits", code="key-invalid")
    return _checked(key)
