"""Every message, both ways, from one table; and what bytes that are none of them do."""

import dataclasses

import auks_vectors as vectors
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hipercow_slurm.errors import ProtocolError
from hipercow_slurm.values import KrbCred, TicketTimes
from hipercow_slurm.wire import messages as m
from hipercow_slurm.wire import records

BOTH = [(m.decode_request, *pair) for pair in vectors.REQUESTS] + [(m.decode_reply, *pair) for pair in vectors.REPLIES]
IDS = [f"{type(message).__name__}-{number}" for number, (_, message, _) in enumerate(BOTH)]


@pytest.mark.parametrize(("decode", "message", "text"), BOTH, ids=IDS)
def test_vector_both_ways(decode, message, text):
    data = bytes.fromhex(text)
    assert m.encode(message).hex() == data.hex()
    assert decode(data) == message


@pytest.mark.parametrize(("decode", "message", "text"), BOTH, ids=IDS)
def test_every_truncation_is_refused(decode, message, text):
    data = bytes.fromhex(text)
    for end in {*range(min(len(data), 300)), len(data) - 1, len(data) - 5} - {-1}:
        if 0 <= end < len(data):
            with pytest.raises(ProtocolError):
                decode(data[:end])


@pytest.mark.parametrize(("decode", "message", "text"), BOTH, ids=IDS)
def test_trailing_bytes(decode, message, text):
    data = bytes.fromhex(text) + b"\0"
    if isinstance(message, m.ErrorReply):
        assert decode(data) == message, "an ERROR reply may carry more; clients look at the type only"
    else:
        with pytest.raises(ProtocolError):
            decode(data)


@pytest.mark.parametrize("number", [-1, 7, 8, 19, 20, 22, 0x7FFFFFFF])
def test_unknown_request_types(number):
    with pytest.raises(ProtocolError) as caught:
        m.decode_request(number.to_bytes(4, "big", signed=True))
    assert caught.value.code == "wire-unexpected"


@pytest.mark.parametrize("length", [-1, -0x80000000, 32769, 0x7FFFFFFF])
def test_add_refuses_lengths_before_copying(length):
    with pytest.raises(ProtocolError) as caught:
        m.decode_request(b"\0\0\0\2" + length.to_bytes(4, "big", signed=True) + b"x" * 40000)
    assert caught.value.code == "wire-too-long", f"length {length}: {caught.value}"


def _get_reply(**offsets: bytes) -> bytes:
    """Alice's GET reply with some fields overwritten; the key is ``at<offset inside the record>``."""
    data = bytearray(m.encode(m.GetReply(vectors.ALICE)))
    for name, value in offsets.items():
        at = 4 + int(name.removeprefix("at"))
        data[at : at + len(value)] = value
    return bytes(data)


@pytest.mark.parametrize(
    "fields",
    [
        {"at0": b"\0\0\0\x80"},  # size of the principal field
        {"at4": b"\0"},  # empty principal
        {"at4": b"x" * 129},  # no NUL
        {"at4": b"\xff\xfe"},  # not UTF-8
        {"at157": b"\xff\xff\xff\xff"},  # max_length -1: overruns memory in the original client
        {"at157": b"\0\0\x80\x01"},  # max_length 32769
        {"at161": b"\0\0\0\x09"},  # length above max_length
        {"at161": b"\xff\xff\xff\xff"},
        {"at173": b"\0\0\0\1"},  # status
    ],
    ids=str,
)
def test_records_with_one_bad_field(fields):
    assert m.decode_reply(_get_reply()) == m.GetReply(vectors.ALICE)
    with pytest.raises(ProtocolError):
        m.decode_reply(_get_reply(**fields))


def test_stack_bytes_of_the_original_are_ignored():
    """The original leaves memory contents after the principal's NUL and after the KRB-CRED."""
    data = _get_reply(at20=b"garbage", at170=b"\xde\xad\xbe")
    assert m.decode_reply(data) == m.GetReply(vectors.ALICE)


def test_padding_and_principal_are_zero_filled():
    record = dataclasses.replace(vectors.ALICE, max_length=4096)
    data = record.encode()
    assert len(data) == 169 + 4096
    assert set(data[4 + len("alice@EX.ORG") : 133]) == {0}
    assert set(data[165 + 5 :]) == {0}


@pytest.mark.parametrize(
    "change",
    [
        {"principal": "x" * 128},
        {"principal": "a\0b"},
        {"max_length": 4},
        {"max_length": 32769},
        {"data": b"x" * 32769, "max_length": 32769},
    ],
    ids=lambda change: ",".join(change),
)
def test_records_that_do_not_fit_are_not_sent(change):
    with pytest.raises(ProtocolError):
        dataclasses.replace(vectors.ALICE, **change).encode()


def test_negative_dump_count_is_refused_and_a_huge_one_costs_nothing():
    for count in (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff"):
        with pytest.raises(ProtocolError):
            m.decode_reply(b"\0\0\0\x1a" + count)


def test_record_of_a_credential():
    cred = KrbCred(b"\x76\0", "alice@EX.ORG", TicketTimes(1, 2, 3), tickets=2)
    record = records.Record.of(7, cred, 4096)
    assert (record.uid, record.crossrealm, record.addressless, record.times) == (7, True, True, cred.times)
    assert m.decode_reply(m.encode(m.GetReply(record))) == m.GetReply(record)


def test_secrets_do_not_print():
    texts = [repr(m.Add(b"SECRETKEY")), repr(m.GetReply(dataclasses.replace(vectors.ALICE, data=b"SECRETKEY")))]
    assert not [text for text in texts if "SECRETKEY" in text]


@given(st.one_of(st.binary(max_size=300), st.binary(max_size=60).map(lambda tail: b"\0\0\0\x18" + tail)))
def test_any_bytes_are_a_message_or_a_protocol_error(data):
    for decode in (m.decode_request, m.decode_reply):
        try:
            message = decode(data)
        except ProtocolError:
            continue
        if not isinstance(message, m.ErrorReply):
            assert decode(m.encode(message)) == message


@given(st.integers(0, 400), st.binary(min_size=1, max_size=8))
def test_mutated_records_never_raise_anything_else(at, patch):
    data = bytearray(m.encode(m.DumpReply((vectors.ALICE, vectors.ALICE))))
    data[at : at + len(patch)] = patch
    try:
        m.decode_reply(bytes(data))
    except ProtocolError:
        pass
