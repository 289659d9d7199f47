"""KRB-PRIV sealed in pieces: libkrb5's own rd_priv opens it, and the conversation goes on."""

import os

import cffi
import pytest

from hipercow_slurm.errors import InternalError, ProtocolError
from hipercow_slurm.krb5 import auth, creds, stream

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


def in_pieces(peer, plain: bytes, cut: int = 1000) -> bytes:
    length, pieces = peer.seal_in_pieces(len(plain), (plain[at : at + cut] for at in range(0, len(plain), cut)))
    sealed = b"".join(pieces)
    assert len(sealed) == length
    return sealed


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 90, 127, 128, 200, 255, 256, 65_500, 65_536, 300_001, 17_000_000])
def test_what_is_sealed_in_pieces_opens_and_the_next_message_does_too(pair, length):
    initiator, acceptor = pair
    plain = os.urandom(length)
    assert initiator.unseal(in_pieces(acceptor, plain)) == plain
    assert initiator.unseal(acceptor.seal(b"next")) == b"next"
    assert initiator.unseal(in_pieces(acceptor, b"again")) == b"again"
    assert acceptor.unseal(initiator.seal(b"back")) == b"back"


def test_it_differs_from_libkrb5s_own_in_the_cipher_text_only(pair):
    initiator, acceptor = pair
    theirs = acceptor.seal(b"x" * 5000)
    ours = in_pieces(acceptor, b"x" * 5000)
    assert len(ours) == len(theirs)
    assert ours[:39] == theirs[:39]
    assert b"xxxx" not in ours
    assert initiator.unseal(theirs) == initiator.unseal(ours)


@pytest.mark.parametrize("where", [60, -60, -1])
def test_a_changed_byte_is_noticed(pair, where):
    initiator, acceptor = pair
    message = bytearray(in_pieces(acceptor, bytes(100_000)))
    message[where] ^= 1
    with pytest.raises(ProtocolError):
        initiator.unseal(bytes(message))


def test_types_that_are_not_ours_are_left_to_libkrb5(pair, monkeypatch):
    """Camellia and RC4 are encrypted by libkrb5, as a whole."""
    initiator, acceptor = pair
    monkeypatch.setattr(stream, "_TYPES", {})
    for length in (0, 1, 16, 70_000):
        plain = os.urandom(length)
        assert initiator.unseal(in_pieces(acceptor, plain)) == plain
    assert initiator.unseal(acceptor.seal(b"next")) == b"next"


@pytest.mark.parametrize("said", [99, 101])
def test_a_content_of_another_length_than_announced(pair, said):
    """Its DER would not fit: the peer must not take it for whole."""
    _, acceptor = pair
    with pytest.raises(InternalError):
        list(acceptor.seal_in_pieces(said, [b"x" * 100])[1])


TYPES = {17: 16, 18: 32, 19: 16, 20: 32}

DECRYPT = """
typedef struct { int32_t magic; unsigned int length; char *data; } krb5_data;
typedef struct { int32_t magic; int32_t enctype; unsigned int length; unsigned char *contents; } krb5_keyblock;
typedef struct { int32_t magic; int32_t enctype; uint32_t kvno; krb5_data ciphertext; } krb5_enc_data;
int krb5_init_context(void **);
int krb5_c_decrypt(void *, const krb5_keyblock *, int32_t, const krb5_data *, const krb5_enc_data *, krb5_data *);
"""


@pytest.mark.parametrize("etype", TYPES)
@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 31, 32, 33, 1000, 100_003])
def test_libkrb5_decrypts_what_is_encrypted_in_pieces(etype, length):
    """For every AES type, whatever the pieces: keys, order and the last two blocks are as libkrb5 has them."""
    ffi = cffi.FFI()
    ffi.cdef(DECRYPT)
    krb5, k5crypto = ffi.dlopen("libkrb5.so.3"), ffi.dlopen("libk5crypto.so.3")
    context = ffi.new("void **")
    assert krb5.krb5_init_context(context) == 0
    for cut in (7, 16, 1000, length + 1):
        key, plain = os.urandom(TYPES[etype]), os.urandom(length)
        made = stream.Encryption(etype, key, 13)
        sealed = b"".join(made.update(plain[at : at + cut]) for at in range(0, length, cut)) + made.finish()
        assert len(sealed) == length + stream.overhead(etype)
        octets, cipher, room = (
            ffi.new("unsigned char[]", key),
            ffi.new("char[]", sealed),
            ffi.new("char[]", length + 64),
        )
        block = ffi.new("krb5_keyblock *", (0, etype, len(key), octets))
        given = ffi.new("krb5_enc_data *", (0, etype, 0, (0, len(sealed), cipher)))
        found = ffi.new("krb5_data *", (0, length + 64, room))
        code = k5crypto.krb5_c_decrypt(context[0], block, 13, ffi.NULL, given, found)
        assert code == 0, f"etype {etype}, {length} bytes in pieces of {cut}: libkrb5 says {code}"
        assert ffi.buffer(room, found.length)[:] == plain
