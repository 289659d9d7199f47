"""KRB-CRED: a recorded one from MIT decoded forever, everything else refused, and the file format."""

from __future__ import annotations

import contextlib
import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import der_parts as der
from hipercow_slurm.errors import ProtocolError
from hipercow_slurm.krb5 import asn1, ccache, krbcred
from hipercow_slurm.krb5.der import check_message
from hipercow_slurm.krb5.krbcred import Ticket
from hipercow_slurm.krb5.principal import Principal
from hipercow_slurm.values import KrbCred

# krb5_mk_ncred of MIT 1.20.1 with an auth context without key and flags: alice's TGT from a realm that is no more.
MIT_VECTOR = bytes.fromhex("""
768202ce308202caa003020105a103020116a28201ad308201a9618201a5308201a1a003020105a10c1b0a5245414c4d2e54455354a21f30
1da003020102a11630141b066b72627467741b0a5245414c4d2e54455354a382016930820165a003020112a103020101a282015704820153
34b41808866c50cc196fe83ffb75452a7a733db2cf1c6123f910c7be00171750269bdbb66e857dfe4328cbc142b717ef5055f2a8ca11202b
b57218ccd13898e287113f9c7e16089e55fcbca36733bc1f6619b276d8a08e10dbe66fea6531c43ff858ce48d7f0bc06dbef1d11fbd13e73
62d8e071f3c7bda50b9706228e1752b39aa4b7d2eb33ac60d79cdd8fd275ab33d2b21743f69e313a7928ebddc3ced8a0000fb94a6a04a34b
7d9f06e6557cbfda24338599901512f316e5166d69a4353211e846140b4808d3e81cd33dcc9f7243f25b3817002d1d3ed2117182edfab8a1
a2ff7054ea80610c0b2955d501ac202615ad44555c71eeeecfcbf82161ec51195be2abcd21a8c971cfa64a9f8124f08b51209c5018a8d5d6
85e5eab1e83f31fdc164d92a3060a02691f890ccd16d680f470bf6b63212add3e52bd1d0ca13376f0637d63153f44cc5db59dfae06be2c0f
eda1e2a382010b30820107a003020100a281ff0481fc7d81f93081f6a081d93081d63081d3a02b3029a003020112a12204206830c900f16f
6fb184557443e28f8cf7ede22c7c0f58a732dc0e76a219bec0baa10c1b0a5245414c4d2e54455354a2123010a003020101a10930071b0561
6c696365a30703050040e10000a411180f32303236313132333033353032395aa511180f32303236313132333033353032395aa611180f32
303236313132333133353032395aa711180f32303236313133303033353032395aa80c1b0a5245414c4d2e54455354a91f301da003020102
a11630141b066b72627467741b0a5245414c4d2e54455354a211180f32303236313132333033353032395aa3050203029d9c
""")
MIT_KEY = bytes.fromhex("6830c900f16f6fb184557443e28f8cf7ede22c7c0f58a732dc0e76a219bec0ba")
(MIT_TGT,) = krbcred.tickets(krbcred.parse(MIT_VECTOR))


def test_mits_own_message() -> None:
    cred = krbcred.parse(MIT_VECTOR)
    assert (cred.client, cred.tickets, cred.addressless, cred.der) == ("alice@REALM.TEST", 1, True, MIT_VECTOR)
    (tgt,) = krbcred.tickets(cred)
    assert (tgt.client, tgt.server) == ("alice@REALM.TEST", "krbtgt/REALM.TEST@REALM.TEST")
    assert (tgt.keytype, tgt.key, hex(tgt.flags)) == (18, MIT_KEY, "0x40e10000")
    # 20261123033029Z, 10 hours, 7 days
    times = (tgt.authtime, tgt.starttime, tgt.endtime, tgt.renew_till)
    assert times == (1795405829, 1795405829, 1795405829 + 36000, 1795405829 + 604800)
    assert (cred.times.starttime, cred.times.endtime, cred.times.renew_till) == times[1:]
    assert tgt.ticket_der in MIT_VECTOR and tgt.ticket_der[0] == 0x61


def test_build_gives_the_same_credential() -> None:
    """Without MIT's optional timestamp, but with every value."""
    again = krbcred.build([MIT_TGT])
    (tgt,) = krbcred.tickets(again)
    for name in Ticket.__slots__:
        assert getattr(tgt, name) == getattr(MIT_TGT, name), name
    # [2] timestamp (17 + 2 bytes) and [3] usec (5 + 2); no length crosses 128 or 256 by that
    assert len(MIT_VECTOR) - len(again.der) in range(24, 30), "only timestamp and usec are missing"


def replaced(**changes: Any) -> Ticket:
    return Ticket(**{**{name: getattr(MIT_TGT, name) for name in Ticket.__slots__}, **changes})


def ticket_der(server: str = "krbtgt/REALM.TEST@REALM.TEST", **parts: bytes | None) -> bytes:
    """A Ticket's DER, part by part."""
    name = Principal.parse(server)
    encrypted = der.sequence(der.integer(18), der.integer(1), der.octets(b"cipher"))
    values = {
        "vno": der.integer(5),
        "realm": der.text(name.realm),
        "sname": der.principal(name),
        "enc": encrypted,
    }
    return der.value(der.application(1), der.sequence(*{**values, **parts}.values()))


def info(**parts: bytes | None) -> bytes:
    """A KrbCredInfo, field by field; None leaves one out."""
    client, server = Principal.parse("alice@REALM.TEST"), Principal.parse("krbtgt/REALM.TEST@REALM.TEST")
    values: dict[str, bytes | None] = {
        "key": der.typed(18, b"k" * 32),
        "prealm": der.text(client.realm),
        "pname": der.principal(client),
        "flags": der.flags(0x40E10000),
        "authtime": der.time(1000),
        "starttime": der.time(1000),
        "endtime": der.time(2000),
        "renew_till": None,
        "srealm": der.text(server.realm),
        "sname": der.principal(server),
        "caddr": None,
    }
    assert set(parts) <= set(values), parts
    return der.sequence(*{**values, **parts}.values())


def message(
    tickets: list[bytes] | None = None,
    infos: list[bytes] | None = None,
    *,
    etype: int = 0,
    kvno: bytes | None = None,
    rest: tuple[bytes | None, ...] = (),
) -> bytes:
    """A KRB-CRED of parts."""
    listed = der.sequence_of(tickets if tickets is not None else [ticket_der()])
    inner = der.sequence(der.sequence_of(infos if infos is not None else [info()]), *rest)
    encrypted = der.sequence(der.integer(etype), kvno, der.octets(der.value(der.application(29), inner)))
    return der.value(der.application(22), der.sequence(der.integer(5), der.integer(22), listed, encrypted))


def test_the_hand_made_message_is_good() -> None:
    """So that the refusals below are for what each changes."""
    cred = krbcred.parse(message())
    assert (cred.client, cred.times.starttime, cred.times.endtime, cred.times.renew_till) == (
        "alice@REALM.TEST",
        1000,
        2000,
        0,
    )
    optional = message(rest=(der.integer(-5), der.time(1), der.integer(999_999), der.typed(2, b"abcd"), None))
    assert krbcred.parse(optional).client == "alice@REALM.TEST"
    assert krbcred.tickets(krbcred.parse(message(infos=[info(starttime=None)])))[0].starttime == 1000
    assert krbcred.tickets(krbcred.parse(message(infos=[info(authtime=None)])))[0].authtime == 1000
    assert krbcred.tickets(krbcred.parse(message(infos=[info(flags=None)])))[0].flags == 0


def swapped(body: bytes) -> bytes:
    """A KrbCredInfo with its key [0] after its realm [1]."""
    key, realm = (body.index(bytes((0xA0 | number,))) for number in (0, 1))
    after = realm + 2 + body[realm + 1]
    return body[:key] + body[realm:after] + body[key:realm] + body[after:]


MALLORY = der.principal(Principal.parse("mallory@REALM.TEST"))
HTTP = Principal.parse("HTTP/x@REALM.TEST")
CROSS = Principal.parse("krbtgt/OTHER.TEST@REALM.TEST")
KEY_ONLY = der.sequence(der.typed(18, b"k" * 32))

REFUSED = {
    "no ticket (39 bytes that crash the original)": message([], []),
    "more tickets than infos (crashes krb5_rd_cred)": message([ticket_der()] * 2),
    "more infos than tickets": message(infos=[info()] * 2),
    "info with a key only (crashes krb5_rd_cred)": message(infos=[KEY_ONLY]),
    "etype 18": message(etype=18),
    "kvno": message(kvno=der.integer(1)),
    "no client name": message(infos=[info(pname=None)]),
    "no client realm": message(infos=[info(prealm=None)]),
    "no server name": message(infos=[info(sname=None)]),
    "no server realm": message(infos=[info(srealm=None)]),
    "no key": message(infos=[info(key=None)]),
    "no endtime": message(infos=[info(endtime=None)]),
    "neither authtime nor starttime": message(infos=[info(authtime=None, starttime=None)]),
    "endtime before starttime": message(infos=[info(endtime=der.time(999))]),
    "key of type 0": message(infos=[info(key=der.typed(0, b"k"))]),
    "empty key": message(infos=[info(key=der.typed(18, b""))]),
    "short key": message(infos=[info(key=der.typed(18, b"k" * 31))]),
    "long key": message(infos=[info(key=der.typed(9999, b"k" * 65))]),
    "flags of 33 bits": message(infos=[info(flags=der.value(der.BIT_STRING, b"\7" + b"\0" * 5))]),
    "flags of 8 bits": message(infos=[info(flags=der.value(der.BIT_STRING, b"\0\0"))]),
    "time with a fraction": message(infos=[info(endtime=der.value(der.GENERALIZED_TIME, b"19700101003320.5Z"))]),
    "local time": message(infos=[info(endtime=der.value(der.GENERALIZED_TIME, b"19700101003320"))]),
    "30 February": message(infos=[info(endtime=der.value(der.GENERALIZED_TIME, b"20300230000000Z"))]),
    "before 1970": message(infos=[info(endtime=der.value(der.GENERALIZED_TIME, b"19691231235959Z"))]),
    "after 2106": message(infos=[info(endtime=der.value(der.GENERALIZED_TIME, b"21060207062816Z"))]),
    "a digit of another script": message(
        infos=[info(endtime=der.value(der.GENERALIZED_TIME, "2030022٣".encode().ljust(14, b"0") + b"Z"))]
    ),
    "name with NUL": message(infos=[info(pname=der.sequence(der.integer(1), der.sequence_of([der.text("a\0b")])))]),
    "name with newline": message(infos=[info(pname=der.sequence(der.integer(1), der.sequence_of([der.text("a\nb")])))]),
    "empty name": message(infos=[info(pname=der.sequence(der.integer(1), der.sequence_of([])))]),
    "empty component": message(infos=[info(pname=der.sequence(der.integer(1), der.sequence_of([der.text("")])))]),
    "empty realm": message(infos=[info(prealm=der.text(""))]),
    "name that is not UTF-8": message(infos=[info(prealm=der.value(der.GENERAL_STRING, b"\xff"))]),
    "very long name": message(infos=[info(prealm=der.text("R" * 300))]),
    "client of another realm": message(infos=[info(prealm=der.text("OTHER.TEST"))]),
    "ticket for another server than its info": message([ticket_der(str(HTTP))]),
    "not a TGT": message([ticket_der(str(HTTP))], [info(sname=der.principal(HTTP))]),
    "cross-realm TGT first": message([ticket_der(str(CROSS))], [info(sname=der.principal(CROSS))]),
    "second ticket not a TGT": message(
        [ticket_der(), ticket_der(str(HTTP))], [info(), info(sname=der.principal(HTTP))]
    ),
    "second ticket of another client": message(
        [ticket_der(), ticket_der(str(CROSS))], [info(), info(sname=der.principal(CROSS), pname=MALLORY)]
    ),
    "ticket of version 4": message([ticket_der(vno=der.integer(4))]),
    "ticket without cipher": message([ticket_der(enc=der.sequence(der.integer(18), None, der.octets(b"")))]),
    "ticket with a field more": message([ticket_der(more=der.integer(1))]),
    "ticket that is no ticket": message([b"\x62" + ticket_der()[1:]]),
    "trailing byte": message() + b"\0",
    "trailing byte inside": message(infos=[info() + b"\0"]),
    "cut": message()[:-1],
    "empty": b"",
    "empty flags": message(infos=[info(flags=der.value(der.BIT_STRING, b""))]),
    "flags with unused bits": message(infos=[info(flags=der.value(der.BIT_STRING, b"\7\0\0\0\x80"))]),
    "time with an offset": message(infos=[info(endtime=der.value(der.GENERALIZED_TIME, b"20300101000000+0100"))]),
    "time before all times": message(infos=[info(endtime=der.value(der.GENERALIZED_TIME, b"00010101000000+0100"))]),
    "time with 5000 digits": message(
        infos=[info(endtime=der.value(der.GENERALIZED_TIME, b"20300101000000." + b"1" * 5000 + b"Z"))]
    ),
    "name in pieces": message(infos=[info(prealm=b"\x3b\x80" + der.text("REALM.TEST") + b"\0\0")]),
    "name of another string type": message(infos=[info(prealm=der.value(0x0C, b"REALM.TEST"))]),
    "name of 10 000 components": message(
        infos=[info(pname=der.sequence(der.integer(1), der.sequence_of([der.text("")] * 10_000)))]
    ),
    "1000 tickets": message([b"\x61\0"] * 1000, [info()]),
    "1000 addresses": message(infos=[info(caddr=der.sequence_of([der.typed(2, b"abcd")] * 1000))]),
    "fields in another order": message(infos=[swapped(info())]),
    "nonce out of range": message(rest=(der.integer(2**32),)),
    "usec of a million": message(rest=(None, None, der.integer(1_000_000))),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        krbcred.parse(REFUSED[name])
    said = str(caught.value)
    assert caught.value.code == "wire-malformed" and "\n" not in said, said
    assert said.split(":")[0] in ("KRB-CRED", "EncKrbCredPart", "KrbCredInfo", "Ticket"), f"it names no place: {said}"
    assert len(said) < 400, said  # a name, if too long, is shown to 255


def test_the_size_limit_is_the_protocols() -> None:
    room = krbcred.MAX_CRED - len(message()) - 20
    for more in range(room, room + 40):
        data = message([ticket_der(enc=der.sequence(der.integer(18), None, der.octets(bytes(more))))])
        if len(data) <= 32768:
            krbcred.parse(data)
        else:
            with pytest.raises(ProtocolError, match="at most 32768"):
                krbcred.parse(data)


@pytest.mark.parametrize("seconds", [0, 2**31 - 1, 2**31, 2**32 - 1])
def test_times_are_unsigned(seconds: int) -> None:
    cred = krbcred.build([replaced(starttime=0, authtime=0, endtime=seconds, renew_till=seconds)])
    assert (cred.times.endtime, cred.times.renew_till) == (seconds, seconds)
    assert seconds.to_bytes(4, "big") * 2 in ccache.file_v4(cred)


@pytest.mark.parametrize(
    "wrong",
    [
        *({name: 2**32} for name in ("authtime", "starttime", "endtime", "renew_till", "flags")),
        *({"endtime": -1}, {"flags": -1}, {"keytype": 2**31}, {"key": b""}, {"ticket_der": b""}),
        *(
            {"ticket_der": MIT_TGT.ticket_der + b"\0"},
            {"addresses": ((2**31, b"x"),)},
            {"addresses": ((2, b"x"),) * 65},
        ),
        {"ticket_der": b"\x61\x80" + MIT_TGT.ticket_der[4:] + b"\0\0"},
    ],
    ids=lambda wrong: "".join(wrong),
)
def test_build_refuses_what_parse_would(wrong: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        krbcred.build([replaced(**wrong)])


def test_times_of_several_tickets() -> None:
    """auks-protocol section 5: start and end the least, renew_till the greatest."""
    cross = replaced(server=str(CROSS), ticket_der=ticket_der(str(CROSS)), starttime=MIT_TGT.starttime + 5)
    cred = krbcred.build([MIT_TGT, replaced(**as_dict(cross), endtime=MIT_TGT.endtime - 7, renew_till=0)])
    assert cred.tickets == 2
    assert cred.times.starttime == MIT_TGT.starttime
    assert cred.times.endtime == MIT_TGT.endtime - 7
    assert cred.times.renew_till == MIT_TGT.renew_till


def as_dict(ticket: Ticket) -> dict[str, Any]:
    return {name: getattr(ticket, name) for name in Ticket.__slots__ if name not in ("endtime", "renew_till")}


@pytest.mark.parametrize(
    "encode",
    [
        lambda body: b"\x30\x80" + body + b"\0\0",
        lambda body: b"\x30\x83" + len(body).to_bytes(3, "big") + body,
        lambda body: b"\x30\x85" + len(body).to_bytes(5, "big") + body,
    ],
    ids=["indefinite", "long form", "five octets"],
)
def test_ber_that_is_not_der(encode: Any) -> None:
    good = message()
    body = good[8:]
    assert good[:1] == b"\x76" and good[4:5] == b"\x30"
    with pytest.raises(ProtocolError, match="not DER"):
        krbcred.parse(der.value(0x76, encode(body)))


@pytest.mark.parametrize("size", [0, 1, 100, 115, 116, 240, 241, 242, 65500, 65516, 65517, 65518, 65519, 70000])
def test_the_outer_shape_of_a_message(size: int) -> None:
    """For every size of every length field, exactly one way to write it is taken."""
    begin = der.value(0xA0, der.integer(5)) + der.value(0xA1, der.integer(21))
    good = der.value(der.application(21), der.value(der.SEQUENCE, begin + bytes(size)))
    check_message(good, 21, "KRB-PRIV", limit=len(good))
    inner = der.value(der.SEQUENCE, begin + bytes(size))
    bad = {
        "too long": (good, len(good) - 1),
        "byte missing": (good[:-1], 2**31),
        "byte more": (good + b"\0", 2**31),
        "byte more inside": (der.value(der.application(21), inner + b"\0"), 2**31),
        "byte missing inside": (der.value(der.application(21), inner[:-1]), 2**31),
        "no application tag": (inner, 2**31),
        "another type": (good.replace(b"\x02\1\x15", b"\2\1\x14", 1), 2**31),
        "another version": (good.replace(b"\2\1\5", b"\2\1\4", 1), 2**31),
        "another tag": (b"\x6e" + good[1:], 2**31),
        "set in place of sequence": (good.replace(b"\x30", b"\x31", 1), 2**31),
        "longer length": (b"\x75\x84" + len(inner).to_bytes(4, "big") + inner, 2**31),
    }
    for name, (data, limit) in bad.items():
        with pytest.raises(ProtocolError, match="KRB-PRIV: "):
            check_message(data, 21, "KRB-PRIV", limit=limit)
            pytest.fail(f"{name} was taken")


def encrypted(etype: bytes, kvno: bytes | None = None) -> bytes:
    return der.sequence(etype, kvno, der.octets(b""))


@pytest.mark.parametrize("octets", [b"", b"\0\x05", b"\xff\xff", b"\0\0\0\0\0\0\0\1"])
def test_integers_in_minimal_form(octets: bytes) -> None:
    with pytest.raises(ProtocolError, match="not DER"):
        asn1.load(asn1.EncryptedData, encrypted(der.value(der.INTEGER, octets)), "x")


@given(st.integers(min_value=-(2**40), max_value=2**40))
def test_integers_come_back(number: int) -> None:
    """Within 32 bits, signed or unsigned; beyond they are refused."""
    good = der.integer(0)
    for field, high in (("etype", 2**31 - 1), ("kvno", 2**32 - 1)):
        data = encrypted(der.integer(number)) if field == "etype" else encrypted(good, der.integer(number))
        if -(2**31) <= number <= high:
            value = asn1.load(asn1.EncryptedData, data, "x")
            assert getattr(value, field) == number
            assert asn1.dump(value) == data
        else:
            with pytest.raises(ProtocolError, match=f"{field}: .*out of range"):
                asn1.load(asn1.EncryptedData, data, "x")


def encoded_anew(data: bytes) -> bytes:
    """A KRB-CRED decoded to values in all its layers, and these encoded: the same bytes if each was looked at."""
    outer = asn1.load(asn1.KrbCred, data, "x", application=22)
    inner = asn1.load(asn1.EncKrbCredPart, outer.enc_part.cipher, "x", application=29)
    bodies = [asn1.load(asn1.Ticket, asn1.encoded(one), "x", application=1) for one in outer.tickets]
    outer.tickets = [asn1.value_of(asn1.dump(one, application=1)) for one in bodies]
    outer.enc_part.cipher = asn1.dump(inner, application=29)
    return asn1.dump(outer, application=22)


@settings(max_examples=300)
@given(st.data())
def test_any_change_is_good_or_refused(data: st.DataObject) -> None:
    """Any bytes give a credential or a ProtocolError; what is taken can be taken apart and built again."""
    octets = bytearray(MIT_VECTOR)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(octets) - 1))
        octets[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
        if not octets:
            break
    with contextlib.suppress(ProtocolError):
        cred = krbcred.parse(bytes(octets))
        assert encoded_anew(cred.der) == cred.der, "bytes that nobody looked at"
        again = krbcred.build(krbcred.tickets(cred))
        strictly = krbcred.parse(again.der)
        for name in KrbCred.__slots__:
            assert getattr(strictly, name) == getattr(again, name), name
        assert again.client == cred.client
        assert ccache.file_v4(cred).startswith(b"\5\4\0\0")


@given(st.binary(max_size=200))
def test_any_bytes(octets: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        krbcred.parse(octets)


def test_every_prefix_is_refused() -> None:
    for length in range(len(MIT_VECTOR)):
        with pytest.raises(ProtocolError):
            krbcred.parse(MIT_VECTOR[:length])


def test_secrets_do_not_show() -> None:
    cred = krbcred.parse(MIT_VECTOR)
    for value in (cred, MIT_TGT):
        shown = repr(value) + str(value)
        assert repr(MIT_KEY)[2:20] not in shown and MIT_KEY.hex() not in shown and "ticket_der" not in shown, shown
        with pytest.raises(TypeError, match="never pickled"):
            pickle.dumps(value)


def test_file_v4_byte_by_byte() -> None:
    """The format of MIT's "Credential cache file format", version 4."""

    def data(octets: bytes) -> bytes:
        return len(octets).to_bytes(4, "big") + octets

    alice = bytes.fromhex("0000000100000001") + data(b"REALM.TEST") + data(b"alice")
    krbtgt = bytes.fromhex("0000000200000002") + data(b"REALM.TEST") + data(b"krbtgt") + data(b"REALM.TEST")
    tgt = replaced(addresses=((2, b"\x7f\0\0\1"), (24, b"\xfe" * 16)), endtime=2**31 + 5)
    expected = (
        bytes.fromhex("05040000")
        + alice
        + alice
        + krbtgt
        + bytes.fromhex("0012")
        + data(MIT_KEY)
        + b"".join(t.to_bytes(4, "big") for t in (1795405829, 1795405829, 2**31 + 5, 1796010629))
        + bytes.fromhex("00 40e10000 00000002 0002 00000004 7f000001 0018 00000010")
        + b"\xfe" * 16
        + bytes.fromhex("00000000")
        + data(MIT_TGT.ticket_der)
        + data(b"")
    )
    assert ccache.file_v4(krbcred.build([tgt])).hex() == expected.hex()
