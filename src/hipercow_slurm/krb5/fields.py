"""The small types of RFC 4120 section 5.2, DER to Python and back: names, times, keys, flags, addresses.

Every ``read_*`` takes a reader of exactly the value's bytes and leaves nothing of it unread.
"""

from __future__ import annotations

import datetime

from hipercow_slurm.errors import RequestError
from hipercow_slurm.krb5 import der
from hipercow_slurm.krb5.der import Reader
from hipercow_slurm.krb5.principal import Principal

MAX_KEY = 64
MAX_TIME = 2**32 - 1

# Key lengths of the encryption types in use (RFC 3961, 3962, 4757, 6803, 8009): libkrb5 trusts the length it is told.
KEY_LENGTH = {16: 24, 17: 16, 18: 32, 19: 16, 20: 32, 23: 16, 25: 16, 26: 32}


def read_integer(holder: Reader, low: int = -(2**31), high: int = 2**31 - 1) -> int:
    """An INTEGER that is all its holder has."""
    number = holder.integer(low, high)
    holder.finish()
    return number


def read_octets(holder: Reader) -> bytes:
    """An OCTET STRING that is all its holder has."""
    octets = holder.content(der.OCTET_STRING)
    holder.finish()
    return octets


def read_body(holder: Reader) -> Reader:
    """Reader of the fields of a SEQUENCE that is all its holder has."""
    body = holder.enter(der.SEQUENCE)
    holder.finish()
    return body


def read_text(holder: Reader) -> str:
    """A KerberosString; real ones are ASCII, some realms write UTF-8."""
    text = _text(holder)
    holder.finish()
    return text


def read_principal(holder: Reader, realm: str) -> Principal:
    """A PrincipalName, with the realm that RFC 4120 keeps beside it."""
    fields = read_body(holder)
    read_integer(fields.enter(der.context(0)))  # the name-type, which must not be relied on (section 6.2)
    names = read_body(fields.enter(der.context(1)))
    fields.finish()
    components = []
    while names:
        components.append(_text(names))
    try:
        return Principal.of(components, realm)
    except RequestError as error:
        raise holder.error(error.message) from error


def read_flags(holder: Reader) -> int:
    """KerberosFlags of 32 bits."""
    octets = holder.content(der.BIT_STRING)
    holder.finish()
    if len(octets) != 5 or octets[0] != 0:
        raise holder.error("ticket flags that are not 32 bits")
    return int.from_bytes(octets[1:], "big")


def read_time(holder: Reader) -> int:
    """Seconds since 1970 of a KerberosTime, ``YYYYMMDDHHMMSSZ``, 1970 to 2106."""
    octets = holder.content(der.GENERALIZED_TIME)
    holder.finish()
    if len(octets) != 15 or not octets[:14].isdigit() or octets[14:] != b"Z":
        raise holder.error("a time in a form RFC 4120 does not allow")
    parts = [int(octets[at : at + 2]) for at in range(4, 14, 2)]
    try:
        seconds = int(datetime.datetime(int(octets[:4]), *parts, tzinfo=datetime.UTC).timestamp())  # type: ignore[arg-type,misc]
    except ValueError as error:
        raise holder.error("a time that does not exist") from error
    if not 0 <= seconds <= MAX_TIME:
        raise holder.error("a time outside 1970 to 2106")
    return seconds


def read_key(holder: Reader) -> tuple[int, bytes]:
    """Type and octets of an EncryptionKey, whose length must fit its type."""
    fields = read_body(holder)
    keytype = read_integer(fields.enter(der.context(0)))
    octets = read_octets(fields.enter(der.context(1)))
    fields.finish()
    if keytype == 0 or not octets or len(octets) > MAX_KEY:
        raise holder.error("a session key of type 0 or of an impossible length")
    if KEY_LENGTH.get(keytype, len(octets)) != len(octets):
        raise holder.error("a session key whose length does not fit its type")
    return keytype, octets


def read_address(fields: Reader) -> tuple[int, bytes]:
    """Type and octets from the fields of a HostAddress."""
    kind = read_integer(fields.enter(der.context(0)))
    octets = read_octets(fields.enter(der.context(1)))
    fields.finish()
    return kind, octets


def text(value: str) -> bytes:
    """A KerberosString."""
    return der.value(der.GENERAL_STRING, value.encode("utf-8"))


def octets(value: bytes) -> bytes:
    """An OCTET STRING."""
    return der.value(der.OCTET_STRING, value)


def principal(name: Principal) -> bytes:
    """A PrincipalName (the realm is written apart)."""
    return der.sequence(
        der.integer(name.name_type), der.sequence_of([text(component) for component in name.components])
    )


def flags(value: int) -> bytes:
    """KerberosFlags of 32 bits."""
    return der.value(der.BIT_STRING, b"\0" + value.to_bytes(4, "big"))


def time(seconds: int) -> bytes:
    """A KerberosTime."""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return der.value(der.GENERALIZED_TIME, moment.strftime("%Y%m%d%H%M%SZ").encode("ascii"))


def key(keytype: int, value: bytes) -> bytes:
    """An EncryptionKey."""
    return der.sequence(der.integer(keytype), octets(value))


def address(kind: int, value: bytes) -> bytes:
    """A HostAddress."""
    return der.sequence(der.integer(kind), octets(value))


def addresses(values: tuple[tuple[int, bytes], ...]) -> bytes:
    """HostAddresses."""
    return der.sequence_of([address(kind, value) for kind, value in values])


def _text(holder: Reader) -> str:
    try:
        return holder.content(der.GENERAL_STRING).decode("utf-8")
    except UnicodeDecodeError as error:
        raise holder.error("a name that is not UTF-8") from error
