"""DER put together byte by byte, also what no encoder would write: for tests of what our decoder must refuse."""

from __future__ import annotations

import datetime

from hipercow_slurm.krb5.principal import Principal

INTEGER, BIT_STRING, OCTET_STRING, GENERALIZED_TIME, GENERAL_STRING, SEQUENCE = 0x02, 0x03, 0x04, 0x18, 0x1B, 0x30


def application(number: int) -> int:
    """Identifier octet of [APPLICATION number]."""
    return 0x60 | number


def value(tag: int, content: bytes) -> bytes:
    """One value of any tag and content."""
    size = len(content)
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return (bytes((tag, size)) if size < 0x80 else bytes((tag, 0x80 | len(octets))) + octets) + content


def integer(number: int) -> bytes:
    """An INTEGER in its shortest form."""
    size = (number if number >= 0 else ~number).bit_length() // 8 + 1
    return value(INTEGER, number.to_bytes(size, "big", signed=True))


def sequence(*fields: bytes | None) -> bytes:
    """A SEQUENCE whose n-th argument becomes field [n]; None leaves the field out."""
    return sequence_of([value(0xA0 | number, field) for number, field in enumerate(fields) if field is not None])


def sequence_of(items: list[bytes]) -> bytes:
    """A SEQUENCE OF."""
    return value(SEQUENCE, b"".join(items))


def text(content: str) -> bytes:
    """A KerberosString."""
    return value(GENERAL_STRING, content.encode())


def octets(content: bytes) -> bytes:
    """An OCTET STRING."""
    return value(OCTET_STRING, content)


def principal(name: Principal) -> bytes:
    """A PrincipalName."""
    return sequence(integer(name.name_type), sequence_of([text(one) for one in name.components]))


def flags(bits: int) -> bytes:
    """KerberosFlags of 32 bits."""
    return value(BIT_STRING, b"\0" + bits.to_bytes(4, "big"))


def time(seconds: int) -> bytes:
    """A KerberosTime."""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return value(GENERALIZED_TIME, moment.strftime("%Y%m%d%H%M%SZ").encode())


def typed(kind: int, content: bytes) -> bytes:
    """An EncryptionKey or a HostAddress: a number [0] and octets [1]."""
    return sequence(integer(kind), octets(content))
