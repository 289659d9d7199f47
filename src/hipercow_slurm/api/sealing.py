"""Sealing a session's ticket under the session's own token, so that a stolen database opens nothing.

The database keeps ``SHA-256(token)`` to find the session and ``AES-256-GCM(HKDF(token), KRB-CRED)``; the token is
256 random bits, so a plain hash of it is as good as a slow one. Pure functions; no I/O.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from hipercow_slurm.errors import InternalError

TOKEN_BYTES = 32
_TOKEN_CHARS = 43  # 32 bytes in base64url without padding
_NONCE_BYTES = 12
_INFO = b"hipercow-slurm session ticket v1"


def new_token() -> str:
    """A session token: 256 random bits in base64url."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def token_bits(token: str) -> bytes | None:
    """The 32 bytes of a well-formed token, or None; no other spelling of the same bits is accepted."""
    if len(token) != _TOKEN_CHARS or not token.isascii():
        return None
    try:
        bits = base64.b64decode(token + "=", altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    return bits if base64.urlsafe_b64encode(bits).rstrip(b"=").decode() == token else None


def fingerprint(bits: bytes) -> bytes:
    """What the database finds the session by."""
    return hashlib.sha256(bits).digest()


def derive_key(bits: bytes, session_id: str) -> bytes:
    """The session's sealing key, 32 bytes; different for each session id."""
    return HKDF(algorithm=SHA256(), length=32, salt=session_id.encode(), info=_INFO).derive(bits)


def seal(key: bytes, plain: bytes, *, session_id: str, principal: str) -> bytes:
    """Encrypt ``plain`` for this session only: nonce (12 bytes) + ciphertext + tag (16 bytes)."""
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plain, _bound_to(session_id, principal))


def unseal(key: bytes, sealed: bytes, *, session_id: str, principal: str) -> bytes:
    """Decrypt what ``seal`` made.

    Raises:
        InternalError: code ``sealed-damaged``: other key, other session, other principal, or changed bytes.
    """
    try:
        return AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _bound_to(session_id, principal))
    except (InvalidTag, ValueError) as error:
        raise InternalError(
            f"the sealed ticket of session {session_id} does not open", code="sealed-damaged"
        ) from error


def _bound_to(session_id: str, principal: str) -> bytes:
    """Associated data: a sealed ticket moved to another row, or a row given another principal, does not open."""
    return session_id.encode() + b"\0" + principal.encode()
