"""Our AP exchange and KRB-PRIV against MIT's own krb5_sendauth and krb5_recvauth over TCP, both directions."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from krb5_box import PASSWORD, Kdc
from mit import Mit, MitError, read_exactly, read_frame, send_frame

from hipercow_slurm.errors import CredentialError, Error, ProtocolError, RequestError
from hipercow_slurm.krb5 import auth, ccache, krbcred, krberror
from hipercow_slurm.krb5.principal import Principal

pytestmark = pytest.mark.kdc
SERVICE = "auks/head.test@REALM.TEST"
MIT = Mit()


@contextlib.contextmanager
def tcp_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected TCP sockets with different loopback addresses, so that mixing them up shows."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname(), source_address=("127.0.0.2", 0))
        server, _ = listener.accept()
        with client, server:
            for sock in (client, server):  # not settimeout(): libkrb5 must find a blocking socket
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 10, 0))
            yield client, server


def in_thread(work: Callable[[], Any]) -> Callable[[], Any]:
    """Run work in a thread; the returned function joins it and gives its result or raises its error."""
    box: dict[str, Any] = {}

    def run() -> None:
        try:
            box["result"] = work()
        except BaseException as error:
            box["error"] = error

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def join() -> Any:
        thread.join(20)
        assert not thread.is_alive(), "the other end still waits"
        if "error" in box:
            raise box["error"]
        return box["result"]

    return join


def addresses(sock: socket.socket) -> dict[str, bytes]:
    return {
        "local": socket.inet_aton(sock.getsockname()[0]),
        "remote": socket.inet_aton(sock.getpeername()[0]),
    }


def serve_handshake(sock: socket.socket, acceptor: auth.Acceptor) -> None:
    """The server's side of sendauth (auks-protocol section 2), with our Acceptor."""
    assert read_frame(sock) == b"KRB5_SENDAUTH_V1.0\0"
    assert read_frame(sock) == b"0.1\0"
    sock.sendall(b"\0")
    try:
        reply = acceptor.ap_req(read_frame(sock))
    except Error as error:
        send_frame(sock, acceptor.krb_error(error))
        raise
    send_frame(sock, b"")
    send_frame(sock, reply)


def client_handshake(sock: socket.socket, initiator: auth.Initiator) -> None:
    """The client's side, with our Initiator."""
    send_frame(sock, b"KRB5_SENDAUTH_V1.0\0")
    send_frame(sock, b"0.1\0")
    assert read_exactly(sock, 1) == b"\0"
    send_frame(sock, initiator.ap_req())
    if refusal := read_frame(sock):
        raise krberror.meaning(refusal, initiator.service)
    initiator.ap_rep(read_frame(sock))


def file_ccache(kdc: Kdc, path: Path) -> str:
    path.write_bytes(ccache.file_v4(kdc.login()))
    return f"FILE:{path}"


@pytest.mark.parametrize("nat", [False, True], ids=["plain", "nat"])
def test_mit_client_to_our_acceptor(kdc: Kdc, tmp_path: Path, nat: bool) -> None:
    """krb5_sendauth takes our acceptor subkey; NAT mode is found out from its first message."""
    source = file_ccache(kdc, tmp_path / "cc")
    with tcp_pair() as (client, server), auth.Acceptor(kdc.auks, SERVICE, **addresses(server)) as acceptor:
        mit = Mit()
        wait = in_thread(lambda: mit.sendauth(client, SERVICE, source, nat=nat))
        serve_handshake(server, acceptor)
        peer = wait()
        assert acceptor.client == "alice@REALM.TEST"
        for round in range(3):
            request, reply = b"request %d" % round, b"reply" * 1000 + b"%d" % round
            assert acceptor.unseal(peer.seal(request)) == request
            assert peer.unseal(acceptor.seal(reply)) == reply


@pytest.mark.parametrize("nat", [False, True], ids=["plain", "nat"])
def test_our_initiator_to_mit_server(kdc: Kdc, monkeypatch: pytest.MonkeyPatch, nat: bool) -> None:
    """krb5_recvauth, which echoes our subkey as the original auksd does, takes our AP-REQ and KRB-PRIVs."""
    monkeypatch.setenv("KRB5RCACHENAME", "none:")
    with tcp_pair() as (client, server):
        initiator = auth.Initiator(kdc.login(), "auks/head.test", **addresses(client), nat=nat)
        mit = Mit()
        wait = in_thread(lambda: mit.recvauth(server, SERVICE, kdc.auks, nat=nat))
        client_handshake(client, initiator)
        peer = wait()
        for round in range(3):
            request, reply = b"request" * 1000 + b"%d" % round, b"reply %d" % round
            assert peer.unseal(initiator.seal(request)) == request
            assert initiator.unseal(peer.seal(reply)) == reply
        initiator.close()


def test_mit_server_without_nat_refuses_our_nat_client(kdc: Kdc, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above would pass if addresses were not sent at all; this one shows that MIT compares them."""
    monkeypatch.setenv("KRB5RCACHENAME", "none:")
    with tcp_pair() as (client, server):
        initiator = auth.Initiator(kdc.login(), "auks/head.test", **addresses(client), nat=True)
        mit = Mit()
        wait = in_thread(lambda: mit.recvauth(server, SERVICE, kdc.auks))
        client_handshake(client, initiator)
        with pytest.raises(MitError, match="Incorrect net address"):
            wait().unseal(initiator.seal(b"hello"))


def test_mit_client_understands_our_refusal(kdc: Kdc, tmp_path: Path) -> None:
    """Our KRB-ERROR is one: krb5_sendauth reads it and says the server rejected it."""
    source = file_ccache(kdc, tmp_path / "cc")
    with tcp_pair() as (client, server), auth.Acceptor(kdc.http, SERVICE, **addresses(server)) as acceptor:
        mit = Mit()
        wait = in_thread(lambda: mit.sendauth(client, SERVICE, source))
        with pytest.raises(CredentialError) as caught:
            serve_handshake(server, acceptor)
        assert caught.value.code == "not-for-us"
        with pytest.raises(MitError, match="rejected") as refused:
            wait()
        assert refused.value.args[0] == -1765328177, "KRB5_SENDAUTH_REJECTED"


def test_we_understand_mits_refusal(kdc: Kdc, monkeypatch: pytest.MonkeyPatch) -> None:
    """krb5_recvauth without the key answers with a KRB-ERROR; we say that it is the key."""
    monkeypatch.setenv("KRB5RCACHENAME", "none:")
    with tcp_pair() as (client, server):
        initiator = auth.Initiator(kdc.login(), "auks/head.test", **addresses(client))
        mit = Mit()
        wait = in_thread(lambda: mit.recvauth(server, SERVICE, kdc.http))
        with pytest.raises(Error) as caught:
            client_handshake(client, initiator)
        assert (type(caught.value), caught.value.code) == (CredentialError, "not-for-us"), str(caught.value)
        with pytest.raises(MitError):
            wait()


def test_recorded_session_replayed_to_us_fails(kdc: Kdc, tmp_path: Path) -> None:
    """MIT's client recorded and sent again verbatim: the AP-REQ passes, its first request does not."""
    source = file_ccache(kdc, tmp_path / "cc")
    with tcp_pair() as (client, server), auth.Acceptor(kdc.auks, SERVICE, **addresses(server)) as acceptor:
        mit = Mit()
        wait = in_thread(lambda: mit.sendauth(client, SERVICE, source))
        for expected in (b"KRB5_SENDAUTH_V1.0\0", b"0.1\0"):
            assert read_frame(server) == expected
        server.sendall(b"\0")
        ap_req = read_frame(server)
        send_frame(server, b"")
        send_frame(server, acceptor.ap_req(ap_req))
        peer = wait()
        request = peer.seal(b"remove uid 5001")
        assert acceptor.unseal(request) == b"remove uid 5001"
        again = auth.Acceptor(kdc.auks, SERVICE, **addresses(server))
        again.ap_req(ap_req)
        with pytest.raises(ProtocolError) as caught:
            again.unseal(request)
        assert caught.value.code == "seal-broken"
        again.close()


def test_krb_cred_of_mit_and_ours(kdc: Kdc, tmp_path: Path) -> None:
    """We read what krb5_mk_ncred makes, and krb5_rd_cred reads what we make, to the same tickets and keys."""
    source = file_ccache(kdc, tmp_path / "cc")
    theirs = krbcred.parse(Mit().mk_ncred(source))
    ours = krbcred.build(krbcred.tickets(theirs))
    wanted = [(one.client, one.server, one.key, one.endtime) for one in krbcred.tickets(theirs)]
    assert Mit().rd_cred(ours.der) == wanted == Mit().rd_cred(theirs.der)
    assert (ours.client, ours.times, ours.tickets) == (theirs.client, theirs.times, theirs.tickets)


def test_mit_client_and_password_differ_in_nothing(kdc: Kdc, tmp_path: Path) -> None:
    """kinit's ticket and ours carry the same flags but for what we asked otherwise."""
    path = f"FILE:{tmp_path}/kinit"
    kdc.realm.kinit("alice", PASSWORD, path, "-f", "-r", "7d", "-A")
    (theirs,), (ours,) = krbcred.tickets(ccache.read_tgt(path)), krbcred.tickets(kdc.login())
    assert hex(ours.flags) == hex(theirs.flags)
    assert ours.addresses == theirs.addresses == ()


@settings(max_examples=200)
@given(st.text(alphabet="ab/@\\ \tntb0é", max_size=12))
def test_principal_text_means_what_it_means_to_mit(text: str) -> None:
    """Whatever we accept MIT accepts, splits in the same way and writes in the same way."""
    with contextlib.suppress(RequestError):
        ours = Principal.parse(text)
        assert MIT.parse_name(text) == (tuple(part.encode() for part in ours.components), ours.realm.encode())
        assert MIT.unparse_name(text) == str(ours)


FALLBACK = """
import sys
sys.modules["hipercow_slurm.krb5._libkrb5"] = None
from hipercow_slurm.krb5 import auth, ccache, creds, lib, names, renewal
assert lib.MODE == "abi", lib.MODE
cred = renewal.renew(creds.password_tgt("alice", bytearray(sys.stdin.buffer.read()), keytab=sys.argv[1], service=None))
with (
    auth.Initiator(cred, "auks/head.test", local=b"abcd", remote=b"efgh") as initiator,
    auth.Acceptor(sys.argv[2], None, local=b"efgh", remote=b"abcd") as acceptor,
):
    initiator.ap_rep(acceptor.ap_req(initiator.ap_req()))
    for message in (b"x", b"", bytes(100_000)):
        assert initiator.unseal(acceptor.seal(message)) == message
        assert acceptor.unseal(initiator.seal(message)) == message
    print(acceptor.client, names.localname(acceptor.client))
"""


def test_the_fallback_does_the_same(kdc: Kdc) -> None:
    """Where the compiled module cannot be loaded: the same declarations over dlopen."""
    command = [sys.executable, "-c", FALLBACK, kdc.http, kdc.auks]
    done = subprocess.run(command, input=PASSWORD, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "alice@REALM.TEST alice\n"), done.stderr
