"""The signer's wire: one request and one reply on each connection of a unix socket.

    request   u32 length (big-endian), then an AP-REQ (DER) for the signer's service
    reply     u32 length, then JSON: {"ok": true, "ap_rep": base64, "sealed": base64}
                                  or {"ok": false, "family": ..., "code": ..., "message": ..., "hint": ...}

``sealed`` is a KRB-PRIV around {"token", "localname", "uid", "exp"}. There is no field for a name: the ticket in
the AP-REQ says who asks. Only who knows that ticket's session key can open ``sealed``, under a subkey the signer
draws anew each time, so a stolen or replayed AP-REQ gains nothing.
"""

from __future__ import annotations

import struct

import msgspec

from hipercow_slurm import errors
from hipercow_slurm.errors import Error, ProtocolError

REQUEST_LIMIT = 64 * 1024  # bytes; a ticket with an Active Directory PAC is some 10 to 60 kB
REPLY_LIMIT = 64 * 1024
HEADER = struct.Struct(">I")

FAMILIES: dict[str, type[Error]] = {
    family.__name__: family
    for family in (
        errors.RequestError,
        errors.CredentialError,
        errors.AccessError,
        errors.ProtocolError,
        errors.InternalError,
        errors.UnavailableError,
        errors.ConfigError,
    )
}


class Signed(msgspec.Struct, frozen=True):
    """The content of ``sealed``; ``exp`` in seconds since 1970. It holds a token: it does not print."""

    token: str
    localname: str
    uid: int
    exp: int

    def __repr__(self) -> str:
        return f"<Signed {self.localname} uid={self.uid} exp={self.exp}>"


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """Either ``ap_rep`` and ``sealed``, or an error."""

    ok: bool
    ap_rep: bytes = b""
    sealed: bytes = b""
    family: str = ""
    code: str = ""
    message: str = ""
    hint: str | None = None

    def __repr__(self) -> str:
        return f"<Reply {self.code or 'ok'}>"


_reply = msgspec.json.Decoder(Reply)
_signed = msgspec.json.Decoder(Signed)


def frame(body: bytes) -> bytes:
    """``body`` with its length before it."""
    return HEADER.pack(len(body)) + body


def length_of(header: bytes, limit: int) -> int:
    """The length a header announces.

    Raises:
        ProtocolError: ``wire-too-long``, or ``wire-malformed`` for an empty frame; nothing more is to be read.
    """
    (length,) = HEADER.unpack(header)
    if length > limit:
        raise ProtocolError(f"a frame of {length} bytes was announced; the limit is {limit}", code="wire-too-long")
    if length == 0:
        raise ProtocolError("an empty frame was announced")
    return int(length)


def granted(ap_rep: bytes, sealed: bytes) -> bytes:
    """The frame of a positive reply."""
    return frame(msgspec.json.encode(Reply(ok=True, ap_rep=ap_rep, sealed=sealed)))


def refused(error: Error) -> bytes:
    """The frame of a negative reply; a family the wire does not know travels as ``InternalError``."""
    family = type(error).__name__ if type(error).__name__ in FAMILIES else "InternalError"
    reply = Reply(
        ok=False, family=family, code=error.code, message=error.message[:1000], hint=error.hint and error.hint[:1000]
    )
    return frame(msgspec.json.encode(reply))


def read_reply(body: bytes) -> tuple[bytes, bytes]:
    """``ap_rep`` and ``sealed`` of a reply.

    Raises:
        ProtocolError: it is not a reply.
        Error: the signer's refusal, in its own family, code and words.
    """
    try:
        reply = _reply.decode(body)
    except msgspec.DecodeError as error:
        raise ProtocolError("the signer's reply is not of its protocol") from error
    if not reply.ok:
        family = FAMILIES.get(reply.family)
        if family is None or not reply.code:
            raise ProtocolError(f"the signer's refusal is of the unknown kind {reply.family[:40]!r}")
        raise family(f"signer: {reply.message}", code=reply.code, hint=reply.hint)
    if not reply.ap_rep or not reply.sealed:
        raise ProtocolError("the signer's reply lacks a part")
    return reply.ap_rep, reply.sealed


def read_signed(body: bytes) -> Signed:
    """The content of ``sealed``, once unsealed.

    Raises:
        ProtocolError: it is not what a signer seals.
    """
    try:
        return _signed.decode(body)
    except msgspec.DecodeError as error:
        raise ProtocolError("the signer sealed something unexpected") from error
