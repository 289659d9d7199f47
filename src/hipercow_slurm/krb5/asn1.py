"""The Kerberos messages we read and write ourselves, as ASN.1 (RFC 4120 section 5), by asn1crypto.

asn1crypto reads BER, and leniently. Peers send these bytes, so ``load`` takes only what comes out again byte by byte
when the values it found are encoded anew: that is DER, complete, with nothing in between that nobody looked at. What
RFC 4120 says in words (32-bit integers, seconds without fraction) is checked in ``set``, through which asn1crypto
passes each value, when it builds and when it encodes anew.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator
from typing import Any, TypeVar

from asn1crypto import core

from hipercow_slurm.errors import ProtocolError, RequestError
from hipercow_slurm.krb5.principal import Principal

APPLICATION = 1
MAX_TIME = 2**32 - 1
MAX_ITEMS = 64  # of any list; real ones hold three at most, and each costs time

Spec = TypeVar("Spec", bound=core.Asn1Value)


class Int32(core.Integer):
    """A number of RFC 4120's type Int32; subclasses have other bounds."""

    low, high = -(2**31), 2**31 - 1

    def set(self, value: int) -> None:
        if not self.low <= value <= self.high:
            raise ValueError(f"{type(self).__name__}: an integer that is out of range")
        super().set(value)


class UInt32(Int32):
    """Nonce and kvno: unsigned; some senders write them as negative numbers (an RODC's kvno has the high bit set)."""

    high = MAX_TIME


class Microseconds(Int32):
    low, high = 0, 999_999


class Version(Int32):
    """pvno and tkt-vno."""

    low, high = 5, 5


class _CredType(Int32):
    low, high = 22, 22


class _ErrorType(Int32):
    low, high = 30, 30


class KerberosString(core.GeneralString):
    """Real ones are ASCII, some realms write UTF-8."""

    _encoding = "utf-8"


class KerberosFlags(core.OctetBitString):
    """32 bits, the first of RFC 4120 being the highest of ``int(...)``."""

    def set(self, value: bytes) -> None:
        if len(value) != 4:
            raise ValueError("KerberosFlags: they are not 32 bits")
        super().set(value)

    def __int__(self) -> int:
        return int.from_bytes(self.native, "big")


class KerberosTime(core.GeneralizedTime):
    """``YYYYMMDDHHMMSSZ``, 1970 to 2106; ``int(...)`` is unsigned seconds since 1970."""

    def set(self, value: Any) -> None:
        if not isinstance(value, datetime.datetime) or value.microsecond or not 1970 <= value.year <= 2106:
            raise ValueError("KerberosTime: a time outside 1970 to 2106, or with a fraction")
        super().set(value)
        if not 0 <= int(self) <= MAX_TIME:
            raise ValueError("KerberosTime: a time outside 1970 to 2106")

    def __int__(self) -> int:
        return int(self.native.timestamp())


class _Limited(core.SequenceOf):
    """A list of at most MAX_ITEMS."""

    def dump(self, force: bool = False) -> bytes:
        if len(self) > MAX_ITEMS:
            raise ValueError(f"{type(self).__name__}: {len(self)} items where at most {MAX_ITEMS} are taken")
        return bytes(super().dump(force))


def _at(number: int, **more: bool) -> dict[str, Any]:
    """A field's explicit context tag."""
    return {"explicit": number, **more}


class NameStrings(_Limited):
    _child_spec = KerberosString


class PrincipalName(core.Sequence):
    _fields = [("name-type", Int32, _at(0)), ("name-string", NameStrings, _at(1))]


class EncryptionKey(core.Sequence):
    _fields = [("keytype", Int32, _at(0)), ("keyvalue", core.OctetString, _at(1))]


class EncryptedData(core.Sequence):
    _fields = [
        ("etype", Int32, _at(0)),
        ("kvno", UInt32, _at(1, optional=True)),
        ("cipher", core.OctetString, _at(2)),
    ]


class HostAddress(core.Sequence):
    _fields = [("addr-type", Int32, _at(0)), ("address", core.OctetString, _at(1))]


class HostAddresses(_Limited):
    _child_spec = HostAddress


class Ticket(core.Sequence):
    """RFC 4120 section 5.3."""

    explicit = (APPLICATION, 1)
    _fields = [
        ("tkt-vno", Version, _at(0)),
        ("realm", KerberosString, _at(1)),
        ("sname", PrincipalName, _at(2)),
        ("enc-part", EncryptedData, _at(3)),
    ]


class Tickets(_Limited):
    _child_spec = Ticket


class KrbCred(core.Sequence):
    """KRB-CRED, RFC 4120 section 5.8.1."""

    explicit = (APPLICATION, 22)
    _fields = [
        ("pvno", Version, _at(0)),
        ("msg-type", _CredType, _at(1)),
        ("tickets", Tickets, _at(2)),
        ("enc-part", EncryptedData, _at(3)),
    ]


class KrbCredInfo(core.Sequence):
    """Required here and optional in RFC 4120: what a ticket is of no use without, and libkrb5 1.20 crashes on."""

    _fields = [
        ("key", EncryptionKey, _at(0)),
        ("prealm", KerberosString, _at(1)),
        ("pname", PrincipalName, _at(2)),
        ("flags", KerberosFlags, _at(3, optional=True)),
        ("authtime", KerberosTime, _at(4, optional=True)),
        ("starttime", KerberosTime, _at(5, optional=True)),
        ("endtime", KerberosTime, _at(6)),
        ("renew-till", KerberosTime, _at(7, optional=True)),
        ("srealm", KerberosString, _at(8)),
        ("sname", PrincipalName, _at(9)),
        ("caddr", HostAddresses, _at(10, optional=True)),
    ]


class KrbCredInfos(_Limited):
    _child_spec = KrbCredInfo


class EncKrbCredPart(core.Sequence):
    """The part of a KRB-CRED that can be encrypted, and is in clear here."""

    explicit = (APPLICATION, 29)
    _fields = [
        ("ticket-info", KrbCredInfos, _at(0)),
        ("nonce", UInt32, _at(1, optional=True)),
        ("timestamp", KerberosTime, _at(2, optional=True)),
        ("usec", Microseconds, _at(3, optional=True)),
        ("s-address", HostAddress, _at(4, optional=True)),
        ("r-address", HostAddress, _at(5, optional=True)),
    ]


class KrbError(core.Sequence):
    """KRB-ERROR, RFC 4120 section 5.9.1."""

    explicit = (APPLICATION, 30)
    _fields = [
        ("pvno", Version, _at(0)),
        ("msg-type", _ErrorType, _at(1)),
        ("ctime", KerberosTime, _at(2, optional=True)),
        ("cusec", Microseconds, _at(3, optional=True)),
        ("stime", KerberosTime, _at(4)),
        ("susec", Microseconds, _at(5)),
        ("error-code", Int32, _at(6)),
        ("crealm", KerberosString, _at(7, optional=True)),
        ("cname", PrincipalName, _at(8, optional=True)),
        ("realm", KerberosString, _at(9)),
        ("sname", PrincipalName, _at(10)),
        ("e-text", KerberosString, _at(11, optional=True)),
        ("e-data", core.OctetString, _at(12, optional=True)),
    ]


# asn1crypto completes each class at its first use, without a lock: here, before two threads can meet in that.
for _spec in [one for one in globals().values() if isinstance(one, type) and issubclass(one, core.Asn1Value)]:
    _spec()


def load(spec: type[Spec], data: bytes, what: str, *, ours: bool = False) -> Spec:
    """Decode exactly one value, which must be the DER of ``spec`` to the last byte.

    Args:
        what: names the message in errors, which say where it is wrong but never what the bytes were.
        ours: ``data`` has been through here before, or we encoded it: it need not be checked (half the time).

    Raises:
        ProtocolError: anything else.
    """
    with refusing(what):
        value: Spec = spec.load(data, strict=True)
        if ours:
            return value
        again = value.dump(force=True)
    if again != data:
        at = next((at for at, (one, two) in enumerate(zip(data, again, strict=False)) if one != two), len(again))
        raise ProtocolError(f"{what}: a length, an integer or something else from byte {at} on is not DER")
    return value


# What asn1crypto raises for bytes it cannot take: of its own, ValueError and TypeError; an IndexError for an empty
# BIT STRING, an OverflowError for some times.
_REFUSALS = (ValueError, TypeError, LookupError, ArithmeticError)


@contextlib.contextmanager
def refusing(what: str) -> Iterator[None]:
    """What asn1crypto and our classes refuse in the block becomes a ProtocolError about ``what``."""
    try:
        yield
    except _REFUSALS as error:
        raise ProtocolError(f"{what}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """One line of asn1crypto's several, innermost place last: "Ticket: PrincipalName: ...".

    Its sentences hold types, tags and lengths. The only one with content is of times; others' are left out.
    """
    if isinstance(error, UnicodeDecodeError):
        return "a name that is not UTF-8"
    first, *places = str(error.args[0] if error.args else type(error).__name__).split("\n    while parsing ")
    if "KerberosTime" in first and not first.startswith("KerberosTime"):
        first = "KerberosTime: not a time as RFC 4120 writes them"
    names = [place.rpartition(".")[2] for place in reversed(places)]
    return ": ".join([*names, " ".join(first.replace(f"{__name__}.", "").split())])


def check_message(data: bytes, number: int, what: str, *, limit: int) -> None:
    """Check size and outer shape of a Kerberos message before libkrb5 sees it; costs the same for any size.

    ``data`` must be exactly one [APPLICATION number] SEQUENCE with pvno [0] 5 and msg-type [1] number, as AP-REQ,
    AP-REP, KRB-PRIV and KRB-ERROR begin (RFC 4120 sections 5.5, 5.7, 5.9). DER leaves one way to write that.

    Raises:
        ProtocolError: anything else, or more than ``limit`` bytes.
    """
    if len(data) > limit:
        raise ProtocolError(f"{what}: {len(data)} bytes where at most {limit} are taken")
    outer = _header(0x60 | number, len(data))
    inner = _header(0x30, len(data) - len(outer))
    begin = outer + inner + bytes((0xA0, 3, 2, 1, 5, 0xA1, 3, 2, 1, number))
    if not outer or not inner or not data.startswith(begin):
        raise ProtocolError(f"{what}: {len(data)} bytes that are not one whole message of type {number} in DER")


def _header(tag: int, size: int) -> bytes:
    """Tag and length of the DER value that has ``size`` bytes with them; empty where no value can."""
    if 2 <= size <= 0x81:
        return bytes((tag, size - 2))
    for octets in range(1, 5):
        content = size - 2 - octets
        if content >= 0x80 and (content.bit_length() + 7) // 8 == octets:
            return bytes((tag, 0x80 | octets)) + content.to_bytes(octets, "big")
    return b""


# Between ASN.1 and the values of our own


def name_of(value: PrincipalName, realm: KerberosString, what: str) -> Principal:
    """The principal of a name and the realm that RFC 4120 keeps beside it. The name-type tells nothing (6.2).

    Raises:
        ProtocolError: not a name we take from anyone.
    """
    try:
        return Principal.of(value["name-string"].native, realm.native)
    except RequestError as error:
        raise ProtocolError(f"{what}: {error.message}") from error


def name(value: Principal) -> dict[str, Any]:
    """Fields of a PrincipalName, without the realm."""
    return {"name-type": value.name_type, "name-string": list(value.components)}


def time(seconds: int) -> datetime.datetime:
    """What a KerberosTime is set to."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)
