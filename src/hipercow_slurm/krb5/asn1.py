"""The Kerberos messages we read and write ourselves, as ASN.1 (RFC 4120 section 5), by ``cryptography``'s asn1 module.

It reads DER only, strictly and to the last byte, in Rust. What RFC 4120 says in words or with types that it does not
know (32-bit integers, seconds without fraction, GeneralString, [APPLICATION n]) is added here: ``load`` calls the
``check`` of what it has read.
"""

from __future__ import annotations

import datetime
from functools import lru_cache
from typing import Annotated, Protocol, TypeVar

from cryptography.hazmat import asn1

from hipercow_slurm.errors import ProtocolError, RequestError
from hipercow_slurm.krb5.der import header, refusing, wrap
from hipercow_slurm.krb5.principal import Principal

MAX_TIME = 2**32 - 1
MAX_ITEMS = 64  # of any list; real ones hold three at most, and each costs time

INT32 = (-(2**31), 2**31 - 1)
UINT32 = (-(2**31), 2**32 - 1)  # nonce and kvno: some senders write them as negative numbers (an RODC's kvno)
MICROSECONDS = (0, 999_999)
VERSION = (5, 5)  # pvno and tkt-vno

_GENERAL_STRING = b"\x1b"
_EPOCH = datetime.datetime.fromtimestamp(0, datetime.UTC)
_LIST = asn1.Size(0, MAX_ITEMS)


class Checked(Protocol):
    """A message of this module."""

    def check(self) -> None:
        """What its type does not say; ValueError where that does not hold."""


Spec = TypeVar("Spec", bound=Checked)


def _bound(what: str, value: int | None, bounds: tuple[int, int]) -> None:
    if value is not None and not bounds[0] <= value <= bounds[1]:
        raise ValueError(f"{what}: an integer that is out of range")


@asn1.sequence
class OptionalString:
    """A KerberosString that may be missing: as a field, [n] IMPLICIT SEQUENCE of one is [n] EXPLICIT of that one."""

    value: asn1.TLV


@asn1.sequence
class PrincipalName:
    name_type: Annotated[int, asn1.Explicit(0)]
    name_string: Annotated[list[asn1.TLV], asn1.Explicit(1), _LIST]

    def check(self) -> None:
        _bound("name-type", self.name_type, INT32)


@asn1.sequence
class TypedOctets:
    """EncryptionKey and HostAddress: a type and what it is the type of."""

    kind: Annotated[int, asn1.Explicit(0)]
    octets: Annotated[bytes, asn1.Explicit(1)]

    def check(self) -> None:
        _bound("keytype or addr-type", self.kind, INT32)


@asn1.sequence
class EncryptedData:
    etype: Annotated[int, asn1.Explicit(0)]
    kvno: Annotated[int | None, asn1.Explicit(1)]
    cipher: Annotated[bytes, asn1.Explicit(2)]

    def check(self) -> None:
        _bound("etype", self.etype, INT32)
        _bound("kvno", self.kvno, UINT32)


@asn1.sequence
class Ticket:
    """RFC 4120 section 5.3, inside of [APPLICATION 1]."""

    tkt_vno: Annotated[int, asn1.Explicit(0)]
    realm: Annotated[asn1.TLV, asn1.Explicit(1)]
    sname: Annotated[PrincipalName, asn1.Explicit(2)]
    enc_part: Annotated[EncryptedData, asn1.Explicit(3)]

    def check(self) -> None:
        _bound("tkt-vno", self.tkt_vno, VERSION)
        self.sname.check()
        self.enc_part.check()


@asn1.sequence
class KrbCred:
    """KRB-CRED, RFC 4120 section 5.8.1, inside of [APPLICATION 22]; its tickets are [APPLICATION 1]."""

    pvno: Annotated[int, asn1.Explicit(0)]
    msg_type: Annotated[int, asn1.Explicit(1)]
    tickets: Annotated[list[asn1.TLV], asn1.Explicit(2), _LIST]
    enc_part: Annotated[EncryptedData, asn1.Explicit(3)]

    def check(self) -> None:
        _bound("pvno", self.pvno, VERSION)
        _bound("msg-type", self.msg_type, (22, 22))
        self.enc_part.check()


@asn1.sequence
class KrbCredInfo:
    """Required here and optional in RFC 4120: what a ticket is of no use without, and libkrb5 1.20 crashes on."""

    key: Annotated[TypedOctets, asn1.Explicit(0)]
    prealm: Annotated[asn1.TLV, asn1.Explicit(1)]
    pname: Annotated[PrincipalName, asn1.Explicit(2)]
    flags: Annotated[asn1.BitString | None, asn1.Explicit(3)]
    authtime: Annotated[asn1.GeneralizedTime | None, asn1.Explicit(4)]
    starttime: Annotated[asn1.GeneralizedTime | None, asn1.Explicit(5)]
    endtime: Annotated[asn1.GeneralizedTime, asn1.Explicit(6)]
    renew_till: Annotated[asn1.GeneralizedTime | None, asn1.Explicit(7)]
    srealm: Annotated[asn1.TLV, asn1.Explicit(8)]
    sname: Annotated[PrincipalName, asn1.Explicit(9)]
    caddr: Annotated[list[TypedOctets] | None, asn1.Explicit(10)]

    def check(self) -> None:
        if self.caddr is not None and len(self.caddr) > MAX_ITEMS:
            raise ValueError(f"caddr: {len(self.caddr)} items where at most {MAX_ITEMS} are taken")
        for part in (self.key, self.pname, self.sname, *(self.caddr or ())):
            part.check()


@asn1.sequence
class EncKrbCredPart:
    """The part of a KRB-CRED that can be encrypted, and is in clear here; inside of [APPLICATION 29]."""

    ticket_info: Annotated[list[KrbCredInfo], asn1.Explicit(0), _LIST]
    nonce: Annotated[int | None, asn1.Explicit(1)]
    timestamp: Annotated[asn1.GeneralizedTime | None, asn1.Explicit(2)]
    usec: Annotated[int | None, asn1.Explicit(3)]
    s_address: Annotated[TypedOctets | None, asn1.Explicit(4)]
    r_address: Annotated[TypedOctets | None, asn1.Explicit(5)]

    def check(self) -> None:
        _bound("nonce", self.nonce, UINT32)
        _bound("usec", self.usec, MICROSECONDS)
        for part in (*self.ticket_info, self.s_address, self.r_address):
            if part is not None:
                part.check()
        if self.timestamp is not None:
            seconds(self.timestamp)


@asn1.sequence
class KrbError:
    """KRB-ERROR, RFC 4120 section 5.9.1, inside of [APPLICATION 30]."""

    pvno: Annotated[int, asn1.Explicit(0)]
    msg_type: Annotated[int, asn1.Explicit(1)]
    ctime: Annotated[asn1.GeneralizedTime | None, asn1.Explicit(2)]
    cusec: Annotated[int | None, asn1.Explicit(3)]
    stime: Annotated[asn1.GeneralizedTime, asn1.Explicit(4)]
    susec: Annotated[int, asn1.Explicit(5)]
    error_code: Annotated[int, asn1.Explicit(6)]
    crealm: Annotated[OptionalString | None, asn1.Implicit(7)]
    cname: Annotated[PrincipalName | None, asn1.Explicit(8)]
    realm: Annotated[asn1.TLV, asn1.Explicit(9)]
    sname: Annotated[PrincipalName, asn1.Explicit(10)]
    e_text: Annotated[OptionalString | None, asn1.Implicit(11)]
    e_data: Annotated[bytes | None, asn1.Explicit(12)]

    def check(self) -> None:
        _bound("pvno", self.pvno, VERSION)
        _bound("msg-type", self.msg_type, (30, 30))
        _bound("cusec", self.cusec, MICROSECONDS)
        _bound("susec", self.susec, MICROSECONDS)
        _bound("error-code", self.error_code, INT32)
        self.sname.check()
        if self.cname is not None:
            self.cname.check()


@asn1.sequence
class PaData:
    """PA-DATA, RFC 4120 section 5.2.7."""

    kind: Annotated[int, asn1.Explicit(1)]
    value: Annotated[bytes, asn1.Explicit(2)]

    def check(self) -> None:
        _bound("padata-type", self.kind, INT32)


@asn1.sequence
class EtypeInfo2Entry:
    """RFC 4120 section 5.2.7.5."""

    etype: Annotated[int, asn1.Explicit(0)]
    salt: Annotated[OptionalString | None, asn1.Implicit(1)]
    s2kparams: Annotated[bytes | None, asn1.Explicit(2)]

    def check(self) -> None:
        _bound("etype", self.etype, INT32)


@asn1.sequence
class _List:
    items: Annotated[list[asn1.TLV], asn1.Explicit(0), _LIST]

    def check(self) -> None:
        """What is in it is checked one by one."""


def load_list(spec: type[Spec], data: bytes, what: str) -> list[Spec]:
    """``load`` for a SEQUENCE OF: METHOD-DATA is one of PA-DATA, ETYPE-INFO2 one of its entries."""
    return [load(spec, encoded(one), what) for one in load(_List, wrap(0x30, wrap(0xA0, data)), what).items]


def load(spec: type[Spec], data: bytes, what: str, *, application: int | None = None) -> Spec:
    """Decode exactly one value, which must be the DER of ``spec`` to the last byte.

    Args:
        what: names the message in errors, which say what is wrong but never what the bytes were.
        application: ``data`` is that, inside of [APPLICATION application].

    Raises:
        ProtocolError: anything else.
    """
    if application is not None:
        outer = header(0x60 | application, len(data))
        if not outer or not data.startswith(outer):
            raise ProtocolError(f"{what}: {len(data)} bytes that are not one whole [APPLICATION {application}] in DER")
        data = data[len(outer) :]
    with refusing(what):
        value = asn1.decode_der(spec, data)
        value.check()
    return value


def dump(value: Checked, *, application: int | None = None) -> bytes:
    """The DER of a message, inside of [APPLICATION application] if that is given."""
    inner = asn1.encode_der(value)
    return inner if application is None else wrap(0x60 | application, inner)


# Between ASN.1 and the values of our own


def text(value: asn1.TLV) -> str:
    """What a KerberosString says. Real ones are ASCII, some realms write UTF-8.

    Raises:
        ValueError: it is none, or is not UTF-8.
    """
    if value.tag_bytes != _GENERAL_STRING:
        raise ValueError("a name that is not a KerberosString")
    return bytes(value.data).decode("utf-8")


def value_of(data: bytes) -> asn1.TLV:
    """Any one DER value as a field of another; ValueError where ``data`` is not one."""
    return asn1.decode_der(asn1.TLV, data)


def encoded(value: asn1.TLV) -> bytes:
    """The DER of a value that was kept as it is."""
    return asn1.encode_der(value)


def string(value: str) -> asn1.TLV:
    """A KerberosString."""
    return value_of(wrap(_GENERAL_STRING[0], value.encode("utf-8")))


def name_of(value: PrincipalName, realm: asn1.TLV, what: str) -> Principal:
    """The principal of a name and the realm that RFC 4120 keeps beside it. The name-type tells nothing (6.2).

    Raises:
        ProtocolError: not a name we take from anyone.
    """
    try:
        with refusing(what):
            return _principal(tuple([text(part) for part in value.name_string]), text(realm))
    except RequestError as error:
        raise ProtocolError(f"{what}: {error.message}") from error


@lru_cache(maxsize=1024)
def _principal(components: tuple[str, ...], realm: str) -> Principal:
    """Two of three names in a message are that of the realm's KDC."""
    return Principal.of(components, realm)


def name(value: Principal) -> PrincipalName:
    """A PrincipalName, which is without the realm."""
    return PrincipalName(name_type=value.name_type, name_string=[string(part) for part in value.components])


def seconds(value: asn1.GeneralizedTime) -> int:
    """A KerberosTime as unsigned seconds since 1970.

    Raises:
        ValueError: a time outside 1970 to 2106, or with a fraction.
    """
    since = value.as_datetime() - _EPOCH
    found = since.days * 86400 + since.seconds
    if since.microseconds or not 0 <= found <= MAX_TIME:
        raise ValueError("KerberosTime: a time outside 1970 to 2106, or with a fraction")
    return found


def time(seconds: int) -> asn1.GeneralizedTime:
    """A KerberosTime."""
    return asn1.GeneralizedTime(_EPOCH + datetime.timedelta(seconds=seconds))


def flags_of(value: asn1.BitString | None) -> int:
    """KerberosFlags as one number, the first flag of RFC 4120 being the highest of 32 bits; none are 0.

    Raises:
        ValueError: they are not 32 bits.
    """
    if value is None:
        return 0
    octets = value.as_bytes()
    if len(octets) != 4 or value.padding_bits():
        raise ValueError("KerberosFlags: they are not 32 bits")
    return int.from_bytes(octets, "big")


def flags(value: int) -> asn1.BitString:
    """KerberosFlags."""
    return asn1.BitString(value.to_bytes(4, "big"), 0)
