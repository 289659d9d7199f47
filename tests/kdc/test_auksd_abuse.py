"""What a hostile peer can do to the cache: nothing. Each test has the name of a fault the original has."""

import asyncio
import contextlib
import os
import random
import signal
import socket
import struct
import threading
import time

import pytest
from auksd_box import SERVICE, Auksd, uid_of

import der_parts as der
from hipercow_slurm.auksd.turns import BETWEEN
from hipercow_slurm.errors import Error
from hipercow_slurm.krb5 import asn1, krbcred
from hipercow_slurm.krb5.auth import Initiator
from hipercow_slurm.wire import messages as m
from hipercow_slurm.wire.frames import frame
from hipercow_slurm.wire.sendauth import APPLICATION_VERSION, SENDAUTH_VERSION
from hipercow_slurm.wire.session import Authenticated, ClientSession, Ended

GAMES = uid_of("games")
PEERS = BETWEEN + 16  # enough for turns
HELLO = frame(SENDAUTH_VERSION) + frame(APPLICATION_VERSION)


@pytest.fixture(scope="module")
def auksd(folder, tgt):
    limits = "connections = 300\nconnections_per_peer = 200\nhandshake_timeout_s = 2.0\nidle_timeout_s = 3.0"
    with Auksd(folder / "daemon", folder, extra=limits) as daemon:
        yield daemon
        assert daemon.process.poll() is None, daemon.log
        assert "Traceback" not in daemon.log, daemon.log
        assert not daemon.lines("auksd.bug"), daemon.log


class Talk:
    """One connection of our own making, blocking, request by request."""

    def __init__(self, auksd: Auksd, cred, *, nat: bool = False) -> None:
        self.sock = socket.create_connection(("127.0.0.1", auksd.port), timeout=5)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ip = socket.inet_aton("127.0.0.1")
        self.initiator = Initiator(cred, f"{SERVICE}@REALM.TEST", local=ip, remote=ip, nat=nat)
        self.session = ClientSession(self.initiator)
        self.sent = [self.session.start()]
        self.sock.sendall(self.sent[0])
        assert isinstance(self.event(), Authenticated)

    def event(self):
        while (event := self.session.next_event()) is None:
            self.session.receive(self.sock.recv(65536))
        return event

    def ask(self, request):
        return self.ask_bytes(m.encode(request))

    def ask_bytes(self, plain: bytes):
        self.sent.append(frame(self.initiator.seal(plain)))
        self.sock.sendall(self.sent[-1])
        return self.event()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()


def closed_by_peer(sock: socket.socket) -> bytes:
    """All that comes until the peer closes."""
    received = b""
    try:
        while data := sock.recv(65536):
            received += data
    except ConnectionResetError:
        pass
    return received


def test_a_39_byte_credential_and_its_relatives_are_answered_with_error(auksd, tgt):
    good = tgt["games"].der
    (one,) = krbcred.tickets(tgt["games"])
    info = asn1.dump(krbcred._info(one))
    assert krb_cred([one.ticket_der], [info]) == krbcred.build([one]).der, "the helper makes good ones, too"
    bad = [
        krb_cred([], []),
        krb_cred([one.ticket_der] * 2, [info]),
        krb_cred([one.ticket_der], [info] * 2),
        krb_cred([one.ticket_der], [der.sequence(der.typed(one.keytype, one.key))]),
        *(b"", b"\x76", good[:-1], good + b"\0", b"\x00" * 700, good[:300]),
    ]
    with Talk(auksd, tgt["games"]) as talk:
        for data in bad:
            assert talk.ask(m.Add(data)) == m.ErrorReply(), data[:40].hex()
        assert talk.ask(m.Get(GAMES)) == m.ErrorReply(), "nothing was stored"
        assert talk.ask(m.Add(good)) == m.AddReply(), "the same connection is usable afterwards"
        assert isinstance(talk.ask(m.Get(GAMES)), m.GetReply)
        assert talk.ask(m.Remove(GAMES)) == m.RemoveReply()


def test_400_mutations_of_a_credential(auksd, tgt):
    """The original died at the 146th. What is accepted here must at least come back as it was."""
    dice = random.Random(146)
    with Talk(auksd, tgt["node"]) as talk:
        for _ in range(400):
            data = bytearray(tgt["games"].der)
            for _ in range(dice.randint(1, 3)):
                data[dice.randrange(len(data))] = dice.randrange(256)
            if talk.ask(m.Add(bytes(data))) == m.AddReply():
                reply = talk.ask(m.Get(GAMES))
                assert isinstance(reply, m.GetReply)
                talk.ask(m.Remove(GAMES))
        assert talk.ask(m.Ping()) == m.PingReply()


def test_odd_payloads_are_answered_and_the_connection_goes_on(auksd, tgt):
    with Talk(auksd, tgt["games"]) as talk:
        for plain in (
            b"",
            b"\0",
            b"\0\0\0\3",
            b"\0\0\0\7",
            b"\xff" * 4,
            b"\0\0\0\2\xff\xff\xff\xff",
            b"\0\0\0\2\0\0\x80\1",
        ):
            assert talk.ask_bytes(plain) == m.ErrorReply(), plain.hex()
        assert talk.ask(m.List()) == m.PingReply()


def test_replies_leak_nothing(auksd, tgt):
    """The original pads with its stack. Ours: zeros, and not 32 KiB of them."""
    with Talk(auksd, tgt["games"]) as talk:
        talk.ask(m.Add(tgt["games"].der))
        record = talk.ask(m.Get(GAMES)).record
        talk.ask(m.Remove(GAMES))
    assert record.max_length == len(record.data) + 512
    data = record.encode()
    talk_bytes = m.encode(m.GetReply(record))
    assert talk_bytes[4:] == data
    assert set(data[165 + len(record.data) :]) == {0}


def test_a_recorded_session_cannot_be_replayed(auksd, tgt):
    """Without any replay file: our subkey is in the AP-REP, so the recorded request does not open."""
    with Talk(auksd, tgt["news"]) as talk:
        assert talk.ask(m.Add(tgt["news"].der)) == m.AddReply()
        recorded_add = b"".join(talk.sent)
    with Talk(auksd, tgt["news"]) as talk:
        assert talk.ask(m.Remove(uid_of("news"))) == m.RemoveReply()
    before = len(auksd.lines("auksd.request", verb="add"))
    with socket.create_connection(("127.0.0.1", auksd.port), timeout=5) as sock:
        sock.sendall(recorded_add)
        answer = closed_by_peer(sock)
    assert answer.startswith(b"\0" + frame(b"")), "the AP-REQ alone is still good"
    assert len(auksd.lines("auksd.request", verb="add")) == before, auksd.log[-1000:]
    with Talk(auksd, tgt["news"]) as talk:
        assert talk.ask(m.Get(uid_of("news"))) == m.ErrorReply(), "the replayed ADD did nothing"


def test_nat_and_other_clients_at_the_same_time(auksd, tgt):
    with Talk(auksd, tgt["games"], nat=True) as one, Talk(auksd, tgt["games"]) as two:
        for _ in range(2):
            assert one.ask(m.Ping()) == m.PingReply()
            assert two.ask(m.Ping()) == m.PingReply()


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"\xff\xff\xff\xff", b""),
        (b"\x7f\xff\xff\xff" + b"x" * 1000, b""),
        (b"\x00\x01\x00\x01", b""),
        (frame(b"nonsense") + frame(APPLICATION_VERSION), b"\x01"),
        (frame(SENDAUTH_VERSION) + frame(b"9.9\0"), b"\x02"),
    ],
    ids=["4GiB", "2GiB", "64KiB+1", "version", "application"],
)
def test_strangers_are_closed_at_once(auksd, data, answer):
    with socket.create_connection(("127.0.0.1", auksd.port), timeout=5) as sock:
        began = time.monotonic()
        sock.sendall(data)
        assert closed_by_peer(sock) == answer
        assert time.monotonic() - began < 1, "not only when the deadline has passed"


def test_a_bad_ap_req_gets_a_krb_error(auksd):
    for body in (b"garbage", b"", os.urandom(500), b"\x6e" + os.urandom(300)):
        with socket.create_connection(("127.0.0.1", auksd.port), timeout=5) as sock:
            sock.sendall(HELLO + frame(body))
            answer = closed_by_peer(sock)
        assert answer[:1] == b"\0"
        (length,) = struct.unpack(">I", answer[1:5])
        assert length == len(answer) - 5 > 0
        assert answer[5] == 0x7E, "application 30: KRB-ERROR"


def test_random_bytes_before_and_after_the_handshake(auksd, tgt):
    dice = random.Random(7)
    for _ in range(30):
        with socket.create_connection(("127.0.0.1", auksd.port), timeout=5) as sock:
            sock.sendall(dice.choice([b"", HELLO]) + dice.randbytes(dice.randint(1, 400)))
    for body in (b"", b"\x75\x03\x02\x01\x05", dice.randbytes(80)):
        with Talk(auksd, tgt["games"]) as talk:
            talk.sock.sendall(frame(body))
            assert talk.event() == Ended(clean=False), "a frame that does not open ends the connection"


async def test_800_silent_connections_change_nothing(auksd, tgt):
    """More than all limits: the oldest silent ones make room."""
    client = auksd.client()
    await client.ping(auth=tgt["games"])
    silent = []
    try:
        for _ in range(800):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", auksd.port))
            silent.append(sock)
        began = time.monotonic()
        for _ in range(10):
            await client.ping(auth=tgt["games"])
        took = time.monotonic() - began
        assert took < 1, f"10 pings took {took:.2f} s beside 800 silent connections"
    finally:
        for sock in silent:
            sock.close()


async def test_silence_has_a_deadline_before_and_after_authentication(auksd, tgt):
    def silent():
        with socket.create_connection(("127.0.0.1", auksd.port), timeout=10) as sock:
            began = time.monotonic()
            sock.sendall(frame(SENDAUTH_VERSION)[:9])
            closed_by_peer(sock)
            return time.monotonic() - began

    def authenticated_only():
        with Talk(auksd, tgt["games"]) as talk:
            began = time.monotonic()
            closed_by_peer(talk.sock)
            return time.monotonic() - began

    def after_a_request():
        with Talk(auksd, tgt["games"]) as talk:
            talk.ask(m.Ping())
            began = time.monotonic()
            closed_by_peer(talk.sock)
            return time.monotonic() - began

    took = await asyncio.gather(*map(asyncio.to_thread, (silent, authenticated_only, after_a_request)))
    assert 1.5 < took[0] < 4, took
    assert 1.5 < took[1] < 4, took
    assert 2.5 < took[2] < 5, took


def test_a_peer_that_never_reads_its_replies_is_dropped(auksd, tgt):
    with Talk(auksd, tgt["games"]) as talk:
        talk.ask(m.Add(tgt["games"].der))
        talk.sock.settimeout(0.2)
        sent = 0
        with pytest.raises(OSError):  # time-out or reset
            while sent < 100_000:
                talk.sock.sendall(frame(talk.initiator.seal(m.encode(m.Get(GAMES)))))
                sent += 1
        assert sent < 100_000
    with Talk(auksd, tgt["games"]) as talk:
        assert talk.ask(m.Remove(GAMES)) == m.RemoveReply()


def test_many_clients_at_once(auksd, tgt):
    failed = []

    def one(number):
        try:
            with Talk(auksd, tgt["games"]) as talk:
                for _ in range(10):
                    assert talk.ask(m.Add(tgt["games"].der)) == m.AddReply()
                    assert isinstance(talk.ask(m.Get(GAMES)), m.GetReply)
        except (Error, OSError, AssertionError) as error:
            failed.append((number, error))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(PEERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed[:3]


def test_what_comes_at_once_is_answered_to_each(auksd, tgt):
    """It is stopped while all of it is sent, so it finds in one look: requests, two in one, junk, a goodbye."""
    with contextlib.ExitStack() as stack:
        talks = [stack.enter_context(Talk(auksd, tgt["games"])) for _ in range(PEERS)]
        assert talks[0].ask(m.Add(tgt["games"].der)) == m.AddReply()
        for talk in (*talks, *talks):  # turns are for those who have asked more than once
            assert talk.ask(m.Ping()) == m.PingReply()
        before = len(auksd.lines("auksd.request", verb="get", result="ok"))
        closed = len(auksd.lines("auksd.closed"))
        *good, double, junk, leaving, odd = talks
        auksd.process.send_signal(signal.SIGSTOP)
        try:
            for talk in (*good, double):
                talk.sock.sendall(frame(talk.initiator.seal(m.encode(m.Get(GAMES)))))
            double.sock.sendall(frame(double.initiator.seal(m.encode(m.Ping()))))
            junk.sock.sendall(frame(b"junk"))
            leaving.sock.sendall(frame(leaving.initiator.seal(m.encode(m.Close()))))
            odd.sock.sendall(frame(odd.initiator.seal(b"odd")))
        finally:
            auksd.process.send_signal(signal.SIGCONT)
        for talk in (*good, double):
            assert isinstance(reply := talk.event(), m.GetReply), reply
            assert reply.record.data == tgt["games"].der
        assert double.event() == m.PingReply()
        assert odd.event() == m.ErrorReply() and odd.ask(m.Ping()) == m.PingReply()
        assert (closed_by_peer(junk.sock), closed_by_peer(leaving.sock)) == (b"", b"")
        got = auksd.lines("auksd.request", verb="get", result="ok")[before:]
        assert len(got) == len(good) + 1, got
        assert len(auksd.lines("auksd.closed")) == closed + 1


def krb_cred(tickets: list[bytes], infos: list[bytes]) -> bytes:
    """A KRB-CRED of any tickets and any infos, well-formed DER."""
    part = der.value(der.application(29), der.sequence(der.sequence_of(infos)))
    encrypted = der.sequence(der.integer(0), None, der.octets(part))
    body = der.sequence(der.integer(5), der.integer(22), der.sequence_of(tickets), encrypted)
    return der.value(der.application(22), body)
