"""A session's ticket opens with the session's own token and with nothing a stolen database holds."""

import base64

import pytest

from hipercow_slurm.api import sealing
from hipercow_slurm.errors import InternalError

ALICE = {"session_id": "0011223344556677", "principal": "alice@EX.ORG"}


def key_of(token: str, session_id: str = ALICE["session_id"]) -> bytes:
    bits = sealing.token_bits(token)
    assert bits is not None
    return sealing.derive_key(bits, session_id)


def test_token_is_256_random_bits():
    tokens = {sealing.new_token() for _ in range(200)}
    assert len(tokens) == 200
    assert {len(sealing.token_bits(token)) for token in tokens} == {32}


@pytest.mark.parametrize(
    "spelling",
    [
        lambda t: t + "=",
        lambda t: t + " ",
        lambda t: t[:-1],
        lambda t: t.replace(t[0], "!", 1),
        lambda t: t[:-1] + chr(ord(t[-1]) ^ 1),  # the two spare bits of the last character set
        lambda t: "",
        lambda t: "é" * 43,
    ],
)
def test_only_the_exact_spelling_of_a_token_counts(spelling):
    token = base64.urlsafe_b64encode(bytes(range(32))).rstrip(b"=").decode()
    assert sealing.token_bits(token) == bytes(range(32))
    assert sealing.token_bits(spelling(token)) is None


def test_sealed_opens_with_its_token_only():
    token, other = sealing.new_token(), sealing.new_token()
    sealed = sealing.seal(key_of(token), b"a ticket", **ALICE)
    assert b"ticket" not in sealed
    assert sealing.unseal(key_of(token), sealed, **ALICE) == b"a ticket"
    with pytest.raises(InternalError) as caught:
        sealing.unseal(key_of(other), sealed, **ALICE)
    assert caught.value.code == "sealed-damaged"


def test_what_the_database_knows_of_the_token_opens_nothing():
    """The thief has SHA-256(token), the session id and the sealed bytes."""
    token = sealing.new_token()
    bits = sealing.token_bits(token)
    sealed = sealing.seal(key_of(token), b"a ticket", **ALICE)
    stolen = sealing.fingerprint(bits)
    for guess in (stolen, sealing.derive_key(stolen, ALICE["session_id"]), bits):
        with pytest.raises(InternalError):
            sealing.unseal(guess, sealed, **ALICE)


@pytest.mark.parametrize("change", [{"session_id": "ffffffffffffffff"}, {"principal": "root@EX.ORG"}])
def test_sealed_is_bound_to_its_row(change):
    key = key_of(sealing.new_token())
    sealed = sealing.seal(key, b"a ticket", **ALICE)
    with pytest.raises(InternalError):
        sealing.unseal(key, sealed, **{**ALICE, **change})


@pytest.mark.parametrize(
    "damage", [lambda s: s[:-1], lambda s: s[:5], lambda s: b"", lambda s: bytes([s[0] ^ 1]) + s[1:]]
)
def test_damage_is_found(damage):
    key = key_of(sealing.new_token())
    with pytest.raises(InternalError):
        sealing.unseal(key, damage(sealing.seal(key, b"a ticket", **ALICE)), **ALICE)


def test_keys_differ_by_session():
    token = sealing.new_token()
    assert key_of(token, "one") != key_of(token, "two")
