"""KRB-PRIV sealed in place: libkrb5's own rd_priv opens it, and the conversation goes on."""

import os

import pytest

from hipercow_slurm.errors import ProtocolError
from hipercow_slurm.krb5 import auth, creds

SERVICE = "auks/head.test"
CLIENT, SERVER = b"\x7f\0\0\1", b"\x0a\0\0\7"


@pytest.fixture(params=["addresses", "nat", "none"])
def pair(kdc, request):
    cred = creds.keytab_tgt(SERVICE, kdc.auks)
    ours, theirs = (None, None) if request.param == "none" else (SERVER, CLIENT)
    with (
        auth.Initiator(cred, SERVICE, local=theirs, remote=ours, nat=request.param == "nat") as initiator,
        auth.Acceptor(kdc.auks, SERVICE, local=ours, remote=theirs) as acceptor,
    ):
        initiator.ap_rep(acceptor.ap_req(initiator.ap_req()))
        assert acceptor.unseal(initiator.seal(b"first")) == b"first"
        yield initiator, acceptor


def sealed_in_place(peer, plain: bytes) -> bytes:
    content = bytearray(plain)
    before, after = peer.seal_in_place(content)
    return before + content + after


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 90, 127, 128, 200, 255, 256, 65_500, 65_536, 300_001, 17_000_000])
def test_what_is_sealed_in_place_opens_and_the_next_message_does_too(pair, length):
    initiator, acceptor = pair
    plain = os.urandom(length)
    assert initiator.unseal(sealed_in_place(acceptor, plain)) == plain
    assert initiator.unseal(acceptor.seal(b"next")) == b"next"
    assert initiator.unseal(sealed_in_place(acceptor, b"again")) == b"again"
    assert acceptor.unseal(initiator.seal(b"back")) == b"back"


def test_it_differs_from_libkrb5s_own_in_the_cipher_text_only(pair):
    initiator, acceptor = pair
    theirs = acceptor.seal(b"x" * 5000)
    ours = sealed_in_place(acceptor, b"x" * 5000)
    assert len(ours) == len(theirs)
    assert ours[:39] == theirs[:39]
    assert b"xxxx" not in ours
    assert initiator.unseal(theirs) == initiator.unseal(ours)


@pytest.mark.parametrize("where", [60, -60, -1])
def test_a_changed_byte_is_noticed(pair, where):
    initiator, acceptor = pair
    message = bytearray(sealed_in_place(acceptor, bytes(100_000)))
    message[where] ^= 1
    with pytest.raises(ProtocolError):
        initiator.unseal(bytes(message))
