"""Both roles back to back, and each role against peers that break the rules."""

from itertools import pairwise

import auks_vectors as vectors
import pytest
from auks_doubles import PlainAcceptor, PlainInitiator, pieces
from hypothesis import example, given
from hypothesis import strategies as st

from hipercow_slurm.errors import Error, InternalError, ProtocolError
from hipercow_slurm.wire import messages as m
from hipercow_slurm.wire.frames import frame
from hipercow_slurm.wire.sendauth import APPLICATION_VERSION, SENDAUTH_VERSION, HandshakeError
from hipercow_slurm.wire.session import Authenticated, ClientSession, Ended, Malformed, ServerSession

HELLO = frame(SENDAUTH_VERSION) + frame(APPLICATION_VERSION)


def sealed(request: m.Request) -> bytes:
    return frame(b"S:" + m.encode(request))


def drain(session):
    events = []
    while (event := session.next_event()) is not None:
        events.append(event)
        if isinstance(event, Ended):
            break
    return events


def open_server() -> ServerSession:
    server = ServerSession(PlainAcceptor())
    server.receive(HELLO + frame(b"AP-REQ alice@EX.ORG"))
    assert drain(server) == [Authenticated("alice@EX.ORG")]
    server.outgoing()
    return server


@pytest.mark.parametrize("size", [None, 1, 3])
def test_whole_conversation(size):
    """Every request and reply crosses, fed whole, byte by byte and in threes."""
    server, client = ServerSession(PlainAcceptor()), ClientSession(PlainInitiator())
    server_events, client_events = [], []

    def to_server(data):
        for piece in pieces(data, size):
            server.receive(piece)
            server_events.extend(drain(server))

    def to_client(data):
        for piece in pieces(data, size):
            client.receive(piece)
            client_events.extend(drain(client))

    to_server(client.start())
    to_client(server.outgoing())
    assert server_events == [Authenticated("alice@EX.ORG")]
    assert client_events == [Authenticated("")]
    requests = [message for message, _ in vectors.REQUESTS if not isinstance(message, m.Close)]
    replies = [message for message, _ in vectors.REPLIES]
    for request in requests:
        to_server(client.send(request))
    for reply in replies:
        to_client(server.send(reply))
    to_server(client.send(m.Close()))
    assert server_events[1:] == [*requests, Ended(clean=True)]
    assert client_events[1:] == replies


def test_server_bytes_are_those_of_recvauth():
    server = ServerSession(PlainAcceptor())
    server.receive(frame(SENDAUTH_VERSION))
    assert (server.next_event(), server.outgoing()) == (None, b"")
    server.receive(frame(APPLICATION_VERSION))
    assert (server.next_event(), server.outgoing()) == (None, b"\x00")
    server.receive(frame(b"AP-REQ bob@EX.ORG"))
    assert server.next_event() == Authenticated("bob@EX.ORG")
    assert server.outgoing() == frame(b"") + frame(b"AP-REP"), "both answers in one write"


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (frame(b"KRB5_SENDAUTH_V9.9\0") + frame(APPLICATION_VERSION), b"\x01"),
        (frame(SENDAUTH_VERSION) + frame(b"0.2\0"), b"\x02"),
        (frame(SENDAUTH_VERSION) + frame(b"0.1"), b"\x02"),
        (HELLO + frame(b"nonsense"), b"\x00" + frame(b"KRB-ERROR ticket expired")),
        (HELLO + frame(b""), b"\x00" + frame(b"KRB-ERROR ticket expired")),
    ],
)
def test_refused_handshakes_get_their_answer(data, answer):
    server = ServerSession(PlainAcceptor())
    server.receive(data)
    with pytest.raises(HandshakeError):
        drain(server)
    assert server.outgoing() == answer
    assert server.next_event() == Ended(clean=False), "after an error the session is finished"


@pytest.mark.parametrize(
    ("answer", "krb_error"),
    [(b"\x01", b""), (b"\x02", b""), (b"\x47", b""), (b"\x00" + frame(b"KRB-ERROR x"), b"KRB-ERROR x")],
)
def test_client_sees_each_refusal(answer, krb_error):
    client = ClientSession(PlainInitiator())
    client.start()
    client.receive(answer)
    with pytest.raises(HandshakeError) as caught:
        drain(client)
    assert caught.value.answer == krb_error


def test_client_refuses_a_false_server():
    client = ClientSession(PlainInitiator())
    client.start()
    client.receive(b"\x00" + frame(b"") + frame(b"somebody else"))
    with pytest.raises(ProtocolError):
        drain(client)
    assert not client.authenticated


def test_malformed_requests_leave_the_connection_usable():
    """A short, long or unknown request that opens properly is answered, not punished."""
    server = open_server()
    bad = [b"", b"\0\0\0", b"\0\0\0\3", b"\0\0\0\3\0\0\0\1\0", b"\0\0\0\7", b"\0\0\0\2\xff\xff\xff\xff"]
    for body in bad:
        server.receive(frame(b"S:" + body))
        event = server.next_event()
        assert isinstance(event, Malformed), f"{body.hex()}: {event}"
    server.receive(sealed(m.Ping()))
    assert server.next_event() == m.Ping()


@pytest.mark.parametrize("data", [frame(b"not sealed"), frame(b""), b"\x7f\xff\xff\xff"])
def test_undecodable_frames_end_the_connection(data):
    server = open_server()
    server.receive(data + sealed(m.Ping()))
    with pytest.raises(ProtocolError):
        server.next_event()
    assert server.next_event() == Ended(clean=False)


def test_pipelined_requests_come_one_by_one_and_nothing_follows_close():
    server = open_server()
    server.receive(sealed(m.Get(1)) + sealed(m.Get(2)) + sealed(m.Close()) + sealed(m.Get(3)))
    assert drain(server) == [m.Get(1), m.Get(2), Ended(clean=True)]


def test_end_of_stream():
    for session in (ServerSession(PlainAcceptor()), open_server()):
        session.receive(b"")
        assert session.next_event() == Ended(clean=False)
    server = open_server()
    server.receive(sealed(m.Ping())[:-1])
    assert server.next_event() is None
    server.receive(b"")
    with pytest.raises(ProtocolError):
        server.next_event()


def test_client_sees_the_end_after_the_ap_rep():
    """A server without a rule for the client closes right after the AP-REP."""
    client = ClientSession(PlainInitiator())
    client.start()
    client.receive(b"\x00" + frame(b"") + frame(b"AP-REP"))
    client.receive(b"")
    assert drain(client) == [Authenticated(""), Ended(clean=False)]


def test_nothing_is_sealed_before_the_handshake():
    with pytest.raises(InternalError):
        ServerSession(PlainAcceptor()).send(m.PingReply())
    with pytest.raises(InternalError):
        ClientSession(PlainInitiator()).send(m.Ping())


@given(st.lists(st.one_of(st.binary(max_size=40), st.binary(max_size=40).map(frame)), max_size=6))
def test_any_bytes_from_a_stranger(chunks):
    """Events, "need more", or one of our errors: nothing else."""
    server, client = ServerSession(PlainAcceptor()), ClientSession(PlainInitiator())
    for chunk in [*chunks, b""]:
        for session in (server, client):
            session.receive(chunk)
            try:
                drain(session)
            except Error:
                assert session.next_event() == Ended(clean=False)


FRAMES = st.one_of(
    st.sampled_from([HELLO, HELLO[:9], HELLO[9:], frame(SENDAUTH_VERSION), frame(APPLICATION_VERSION)]),
    st.sampled_from([frame(b"AP-REQ alice@EX.ORG"), frame(b"AP-REQ bob@EX.ORG"), frame(b"no AP-REQ"), frame(b"S")]),
    st.sampled_from([sealed(m.Get(7)), sealed(m.Ping()), sealed(m.Close()), frame(b"S:junk"), b"\0\1\0\1", b"\0"]),
)
GOOD = [HELLO, frame(b"AP-REQ alice@EX.ORG")]


@given(st.sampled_from([[], GOOD[:1], GOOD]), st.lists(FRAMES, max_size=6), st.sets(st.integers(1, 150), max_size=3))
@example(GOOD, [sealed(m.Get(7)), sealed(m.Close())], set())
@example([], [HELLO[:9], HELLO], set())
def test_take_is_receive_and_next_event(begin, frames, cuts):
    """However the stream is cut, whole frames or not: the same events, errors and answers as the long way."""
    chunks = [*begin, *frames, b""]
    if cuts:
        stream, ends = b"".join(chunks), [0, *sorted(cuts), 10**6]
        chunks = [piece for at, end in pairwise(ends) if (piece := stream[at:end])]

    def talk(first):
        server, seen = ServerSession(PlainAcceptor()), []
        for chunk in chunks:
            try:
                event = first(server, chunk)
                while event is not None and not isinstance(event, Ended):
                    seen.append(event)
                    event = server.next_event()
            except Error as error:
                event = (type(error), error.code, error.message)
            seen.append((event, server.outgoing(), server.exhausted, server.buffered))
        return seen

    def long_way(server, chunk):
        server.receive(chunk)
        return server.next_event()

    assert talk(ServerSession.take) == talk(long_way)


@given(st.lists(st.binary(max_size=60).map(lambda body: frame(b"S:" + body)), max_size=6))
def test_any_sealed_bytes_from_a_friend(chunks):
    server = open_server()
    for chunk in chunks:
        server.receive(chunk)
        for event in drain(server):
            assert not isinstance(event, Authenticated)
