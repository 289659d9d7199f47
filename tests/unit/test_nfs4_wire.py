"""The NFSv4 client's bytes: strict reading, and servers that lie, trickle and never stop."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hipercow_slurm.errors import Error, ProtocolError, RequestError, UnavailableError
from hipercow_slurm.files import nfs4_ops as ops
from hipercow_slurm.files import xdr
from hipercow_slurm.files.nfs4_attributes import Attributes
from hipercow_slurm.files.nfs4_client import split
from hipercow_slurm.files.rpc import Deadline, Transport


def reply(status: int, *results: tuple[int, int, bytes]) -> xdr.Reader:
    """A COMPOUND's results: (operation, status, body)."""
    body = b"".join(xdr.uint(number) + xdr.uint(one) + rest for number, one, rest in results)
    return xdr.Reader(xdr.uint(status) + xdr.opaque(b"") + xdr.uint(len(results)) + body)


@pytest.mark.parametrize(
    ("data", "read"),
    [
        (b"\0\0\0", xdr.Reader.uint),
        (b"\0\0\0\2", xdr.Reader.boolean),
        (b"\0\0\0\5hello\0\0\1", lambda r: r.opaque(limit=5)),
        (b"\0\0\0\5hello\0\0", lambda r: r.opaque(limit=5)),
        (b"\0\0\0\5hello\0\0\0", lambda r: r.opaque(limit=4)),
        (b"\xff\xff\xff\xff", lambda r: r.opaque(limit=2**40)),
        (b"\0\0\0\x09" + bytes(36), xdr.Reader.bitmap),
        (b"\0", xdr.Reader.finish),
    ],
)
def test_xdr_is_strict(data: bytes, read: Callable[[xdr.Reader], object]) -> None:
    with pytest.raises(ProtocolError):
        read(xdr.Reader(data))


def test_xdr_reads_what_it_writes() -> None:
    data = xdr.uint(7) + xdr.hyper(2**63) + xdr.boolean(1) + xdr.opaque(b"hello") + xdr.opaque(b"")
    reader = xdr.Reader(data)
    assert [reader.uint(), reader.hyper(), reader.boolean(), reader.opaque(limit=5), reader.opaque(limit=0)] == [
        *(7, 2**63, True, b"hello", b"")
    ]
    reader.finish()


READ = [ops.use(b"handle"), ops.read(0, 4)]


def test_a_good_reply() -> None:
    body = xdr.boolean(1) + xdr.opaque(b"data")
    assert ops.results(reply(0, (22, 0, b""), (25, 0, body)), READ) == (0, [None, (True, b"data")])
    assert ops.results(reply(13, (22, 0, b""), (25, 13, b"")), READ) == (13, [None])


@pytest.mark.parametrize(
    "bad",
    [
        reply(0, (22, 0, b""), (25, 0, xdr.boolean(1) + xdr.opaque(b"data!"))),  # more than was asked for
        reply(0, (22, 0, b""), (24, 0, b"")),  # another operation's result
        reply(0, (22, 0, b"")),  # too few
        reply(0, (22, 0, b""), (25, 0, xdr.boolean(1) + xdr.opaque(b"")), (25, 0, b"")),  # too many
        reply(0, (22, 0, b""), (25, 0, xdr.boolean(1) + xdr.opaque(b"") + b"\0\0\0\0")),  # bytes left over
        reply(13, (22, 0, b""), (25, 2, b"")),  # two opinions
    ],
)
def test_bad_replies(bad: xdr.Reader) -> None:
    with pytest.raises(ProtocolError):
        ops.results(bad, READ)


ANY_OPS = [ops.ROOT, ops.GET_HANDLE, ops.GET_ATTRIBUTES, ops.GET_ROOM, ops.read(0, 99), ops.read_directory(0, bytes(8))]


@given(st.binary(max_size=300), st.integers(0, len(ANY_OPS) - 1))
def test_any_bytes_are_a_value_or_a_protocol_error(data: bytes, which: int) -> None:
    """With the envelope right, so that the bytes reach the operation's own reader."""
    operation = ANY_OPS[which]
    try:
        ops.results(reply(0, (operation.number, 0, data)), [operation])
    except ProtocolError:
        pass


def attributes(bitmap: int, values: bytes) -> bytes:
    words = [bitmap & 0xFFFFFFFF, bitmap >> 32]
    return xdr.uint(2) + xdr.uint(words[0]) + xdr.uint(words[1]) + xdr.opaque(values)


AVAIL, TOTAL = 1 << 42, 1 << 44


@pytest.mark.parametrize(
    ("answer", "room"),
    [
        (attributes(AVAIL | TOTAL, xdr.hyper(5) + xdr.hyper(9)), 5),
        (attributes(AVAIL | TOTAL, xdr.hyper(0) + xdr.hyper(9)), 0),
        (attributes(AVAIL | TOTAL, xdr.hyper(0) + xdr.hyper(0)), None),
        (attributes(AVAIL, xdr.hyper(0)), None),
        (attributes(TOTAL, xdr.hyper(9)), None),
        (attributes(0, b""), None),
    ],
    ids=["room", "full", "cannot tell", "no total", "no room told", "neither"],
)
def test_room_is_known_only_from_a_server_that_tells_both(answer: bytes, room: int | None) -> None:
    """Would have caught: each upload refused by a server that has no such attributes, or zeros for them."""
    assert ops.results(reply(0, (9, 0, answer)), [ops.GET_ROOM])[1] == [room]


def test_attributes_that_nobody_asked_for_are_refused() -> None:
    good = attributes(0b10010, xdr.uint(1) + xdr.hyper(5))
    assert ops.results(reply(0, (9, 0, good)), [ops.GET_ATTRIBUTES])[1] == [Attributes("file", 5)]
    for bad in (
        attributes(0b11010, xdr.uint(1) + xdr.hyper(5) + xdr.hyper(1)),
        attributes(0b10010, xdr.uint(1) + xdr.hyper(5) + b"more"),
        attributes(0b10, xdr.uint(1)),
    ):
        with pytest.raises(ProtocolError):
            ops.results(reply(0, (9, 0, bad)), [ops.GET_ATTRIBUTES])
    for bad in (attributes(AVAIL | 1 << 43, bytes(16)), attributes(AVAIL, bytes(9)), attributes(AVAIL, bytes(7))):
        with pytest.raises(ProtocolError):
            ops.results(reply(0, (9, 0, bad)), [ops.GET_ROOM])


@pytest.mark.parametrize("name", [b"..", b"a/b", b"", b"a\0b"])
def test_a_listing_with_an_impossible_name_is_refused(name: bytes) -> None:
    entry = xdr.boolean(1) + xdr.hyper(1) + xdr.opaque(name) + xdr.uint(0) + xdr.opaque(b"")
    with pytest.raises(ProtocolError, match="impossible file name"):
        ops.results(reply(0, (26, 0, bytes(8) + entry + bytes(4) + xdr.uint(1))), [ops.read_directory(0, bytes(8))])


def test_every_error_has_a_sentence_and_unknown_ones_their_number() -> None:
    assert str(ops.error(2, "cannot read /x")) == "cannot read /x: no such file or directory"
    assert (ops.error(2, "").status, ops.error(2, "").code, ops.error(2, "").EXIT) == (404, "no-such-file", 2)
    assert "10099" in str(ops.error(10099, "cannot read /x"))


def test_paths() -> None:
    assert split("//a/./b/") == [b"a", b"b"]
    assert split("/\udcff") == [b"\xff"]
    for bad in ("a", "", "/a/../b", "/a\0b", "/" + "x" * 256, "/a" * 101):
        with pytest.raises(RequestError) as caught:
            split(bad)
        assert caught.value.code == "bad-path"


def serve(answer: Callable[[socket.socket], None]) -> int:
    """A server for one connection; the port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        with listener, closing(listener.accept()[0]) as connection:
            connection.recv(1000)
            try:
                answer(connection)
            except OSError:
                pass

    threading.Thread(target=run, daemon=True).start()
    return int(listener.getsockname()[1])


def record(size: int, *, last: bool = True) -> bytes:
    return struct.pack(">I", (1 << 31 if last else 0) | size)


def trickle(connection: socket.socket) -> None:
    connection.sendall(record(1000))
    for _ in range(100):
        connection.sendall(b"x")
        time.sleep(0.05)


def exchange(answer: Callable[[socket.socket], None], *, limit: int = 1000) -> bytes:
    deadline = Deadline(0.5)
    transport = Transport("127.0.0.1", serve(answer), deadline=deadline, name="the server")
    with closing(transport):
        return transport.exchange(b"question", limit=limit, deadline=deadline)


def test_a_record_in_pieces() -> None:
    assert exchange(lambda c: c.sendall(record(3, last=False) + b"abc" + record(2) + b"de")) == b"abcde"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (lambda c: c.sendall(record(1001)), "wire-malformed"),
        (lambda c: c.sendall((record(1, last=False) + b"x") * 2000), "wire-malformed"),
        (lambda c: c.sendall(record(0, last=False) * 5000), "wire-malformed"),
        (lambda c: c.sendall(record(10) + b"half"), "file-server-unreachable"),
        (lambda c: time.sleep(3), "file-server-timeout"),
        (trickle, "file-server-timeout"),
    ],
    ids=["too long", "too long in pieces", "empty pieces without end", "cut off", "silent", "trickling"],
)
def test_servers_that_misbehave(answer: Callable[[socket.socket], None], code: str) -> None:
    started = time.monotonic()
    with pytest.raises(Error) as caught:
        exchange(answer)
    assert caught.value.code == code, caught.value
    assert time.monotonic() - started < 2, "the deadline of 0.5 s did not hold"


def test_a_connection_is_not_used_after_an_error() -> None:
    """A late reply to the first request must not become the reply to the second."""
    deadline = Deadline(0.3)
    transport = Transport("127.0.0.1", serve(lambda c: time.sleep(2)), deadline=deadline, name="the server")
    with pytest.raises(UnavailableError):
        transport.exchange(b"one", limit=10, deadline=deadline)
    with pytest.raises(UnavailableError, match="given up"):
        transport.exchange(b"two", limit=10, deadline=Deadline(1))
