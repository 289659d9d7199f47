"""The signing key: who may own it, what is published, and that a rotation never leaves Slurm without the key."""

from __future__ import annotations

import json
import os
import pickle
import stat
from pathlib import Path

import pytest
from joserfc import jwt
from joserfc.errors import SecurityWarning
from joserfc.jwk import KeySet, RSAKey

from hipercow_slurm.errors import ConfigError
from hipercow_slurm.signer import keys
from hipercow_slurm.signer.policy import Grant
from hipercow_slurm.signer.service import token


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "key.pem", tmp_path / "jwks.json"


def published(jwks: Path) -> list[str]:
    return [key["kid"] for key in json.loads(jwks.read_text())["keys"]]


def test_generated_files_are_what_slurm_and_the_signer_need(paths: tuple[Path, Path]) -> None:
    private, jwks = paths
    made = keys.generate(private, jwks)
    for path in (private, keys.next_of(private)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE(jwks.stat().st_mode) == 0o644
    document = json.loads(jwks.read_text())
    for entry in document["keys"]:
        # alg: without it Slurm silently ignores the entry; no private member may be there
        assert {"kty", "alg", "use", "kid", "n", "e"} == set(entry), entry
        assert (entry["kty"], entry["alg"], entry["use"]) == ("RSA", "RS256", "sig")
        assert entry["kid"] == RSAKey.import_key({k: entry[k] for k in ("kty", "n", "e")}).thumbprint()
    assert len(document["keys"]) == 2 and document["keys"][0]["kid"] == made.kid
    assert keys.load_private(private).kid == made.kid


def test_tokens_verify_with_the_published_key_and_nothing_else_is_in_them(paths: tuple[Path, Path]) -> None:
    key = keys.generate(*paths)
    text = token(Grant("alice", 5001, 1_800_000_000, 1_800_000_060), key)
    decoded = jwt.decode(text, KeySet.import_key_set(json.loads(paths[1].read_text())), algorithms=["RS256"])
    assert decoded.claims == {"sun": "alice", "iat": 1_800_000_000, "exp": 1_800_000_060}
    assert decoded.header["kid"] == key.kid and decoded.header["alg"] == "RS256"


def test_keys_are_never_overwritten(paths: tuple[Path, Path]) -> None:
    keys.generate(*paths)
    before = paths[0].read_bytes(), paths[1].read_bytes()
    with pytest.raises(ConfigError) as caught:
        keys.generate(*paths)
    assert caught.value.code == "key-exists"
    assert (paths[0].read_bytes(), paths[1].read_bytes()) == before


def test_rotation_signs_with_a_key_that_was_published_before(paths: tuple[Path, Path]) -> None:
    keys.generate(*paths)
    first, second = published(paths[1])
    rotated = keys.rotate(*paths)
    assert rotated.kid == second and keys.load_private(paths[0]).kid == second
    assert published(paths[1])[0] == second and published(paths[1])[1] not in (first, second)
    assert keys.rotate(*paths).kid == published(paths[1])[0] != second


def test_an_interrupted_rotation_is_finished_not_skipped(paths: tuple[Path, Path]) -> None:
    """Killed after the rename: a second --rotate must not make a key current that Slurm was never told of."""
    keys.generate(*paths)
    second = published(paths[1])[1]
    keys.next_of(paths[0]).replace(paths[0])
    assert keys.rotate(*paths).kid == second
    assert published(paths[1])[0] == second and keys.next_of(paths[0]).exists()


def chmod(private: Path) -> None:
    private.chmod(0o640)


def chown(private: Path) -> None:
    os.chown(private, 4711, -1)


def link(private: Path) -> None:
    private.rename(private.with_name("elsewhere.pem"))
    private.symlink_to(private.with_name("elsewhere.pem"))


def fifo(private: Path) -> None:
    private.unlink()
    os.mkfifo(private, 0o600)


def missing(private: Path) -> None:
    private.unlink()


def replace(text: bytes) -> object:
    def write(private: Path) -> None:
        private.write_bytes(text)

    return write


def small(private: Path) -> None:
    with pytest.warns(SecurityWarning):
        private.write_bytes(RSAKey.generate_key(1024).as_pem(private=True))


def public(private: Path) -> None:
    private.write_bytes(RSAKey.generate_key(2048).as_pem(private=False))


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (chmod, "key-unsafe"),
        (chown, "key-unsafe"),
        (link, "key-unreadable"),
        (fifo, "key-unsafe"),
        (missing, "key-unreadable"),
        (replace(b""), "key-invalid"),
        (replace(b"-----BEGIN PRIVATE KEY-----\nsecret!\n-----END PRIVATE KEY-----\n"), "key-invalid"),
        (replace(b"x" * 100_000), "key-invalid"),
        (small, "key-invalid"),
        (public, "key-invalid"),
    ],
)
def test_unsafe_or_unusable_keys_are_refused(paths: tuple[Path, Path], spoil: object, code: str) -> None:
    keys.generate(*paths)
    assert callable(spoil)
    spoil(paths[0])
    with pytest.raises(ConfigError) as caught:
        keys.load_private(paths[0])
    assert caught.value.code == code, caught.value
    assert "secret!" not in str(caught.value)


def test_root_prepares_the_files_for_the_owner_of_the_directory(paths: tuple[Path, Path]) -> None:
    os.chown(paths[0].parent, 5202, -1)
    keys.generate(*paths)
    assert paths[0].stat().st_uid == keys.next_of(paths[0]).stat().st_uid == 5202
    assert paths[1].stat().st_uid == os.geteuid(), "the JWKS stays root's: who can write it owns the cluster"


def test_a_key_neither_prints_nor_pickles(paths: tuple[Path, Path]) -> None:
    key = keys.generate(*paths)
    assert repr(key) == f"<SigningKey kid={key.kid}>"
    with pytest.raises(TypeError):
        pickle.dumps(key)
