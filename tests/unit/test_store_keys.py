"""Key files: what they may look like, and what is wrong with the others."""

import base64
import os

import pytest

from hipercow_slurm.errors import ConfigError, InternalError
from hipercow_slurm.store.base import Entry
from hipercow_slurm.store.envelope import Keys, key_id, read_key_file
from hipercow_slurm.values import TicketTimes

ENTRY = Entry(7, "alice@EX.ORG", TicketTimes(1, 2, 3))


def write(tmp_path, text, mode=0o600):
    path = tmp_path / "key"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_hex_and_base64_with_comments_and_old_keys(tmp_path):
    new, old = os.urandom(32), os.urandom(32)
    path = write(tmp_path, f"# site key\n{base64.b64encode(new).decode()}  # since June\n\n{old.hex()}\n")
    keys = read_key_file(path)
    assert keys.active == key_id(new)
    assert keys.open(ENTRY, Keys(old).seal(ENTRY, b"data")) == b"data"
    box = keys.seal(ENTRY, b"data")
    assert Keys(new).open(ENTRY, box) == b"data"
    with pytest.raises(InternalError):
        Keys(old).open(ENTRY, box)


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [
        ("", 0o600, "no key"),
        ("# only a comment\n", 0o600, "no key"),
        ("\nabcd\n", 0o600, ":2:"),
        ("z" * 64, 0o600, ":1:"),
        (base64.b64encode(b"x" * 31).decode(), 0o600, ":1:"),
        ("00" * 32, 0o640, "0640"),
        ("00" * 32, 0o604, "0604"),
        ("\u00e9" * 32, 0o600, "cannot read"),
    ],
)
def test_bad_key_files_are_named_with_what_is_wrong(tmp_path, text, mode, said):
    with pytest.raises(ConfigError) as caught:
        read_key_file(write(tmp_path, text, mode))
    assert said in caught.value.message
    assert caught.value.code == "store-key"


def test_missing_key_file_says_how_to_make_one(tmp_path):
    with pytest.raises(ConfigError) as caught:
        read_key_file(tmp_path / "key")
    assert "urandom" in (caught.value.hint or "")


def test_the_same_record_twice_has_nothing_in_common():
    keys = Keys(b"k" * 32)
    one, two = keys.seal(ENTRY, b"data" * 100), keys.seal(ENTRY, b"data" * 100)
    assert one.sealed != two.sealed
    assert one.wrapped != two.wrapped
    assert "data" not in repr(one)
