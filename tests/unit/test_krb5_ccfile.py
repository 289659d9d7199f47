"""Reading a FILE ccache without libkrb5: what our writer writes comes back, anything else is refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_krbcred import MIT_VECTOR

from hipercow_slurm.errors import CredentialError, ProtocolError
from hipercow_slurm.krb5 import ccache, ccfile, krbcred

CRED = krbcred.parse(MIT_VECTOR)
FILE = ccache.file_v4(CRED)
OWNER_END = 4 + len(ccache._principal(CRED.client))


def test_a_file_comes_back():
    owner, found = ccfile.parse(FILE)
    assert owner == CRED.client
    assert krbcred.build(found).times == CRED.times
    assert ccfile.read_tgt(FILE).der == krbcred.build(krbcred.tickets(CRED)).der


def test_header_fields_and_settings_are_passed_over():
    """MIT writes a clock offset into the header, and settings as credentials of the realm X-CACHECONF:."""
    head = b"\x05\x04\0\x0c" + b"\0\1\0\x08" + bytes(8)
    name = b"\0\0\0\1\0\0\0\2" + b"".join(
        len(part).to_bytes(4, "big") + part for part in (b"X-CACHECONF:", b"krb5_ccache_conf_data", b"pa_type")
    )
    setting = ccache._principal(CRED.client) + name + bytes(2 + 4 + 16 + 1 + 4 + 4 + 4) + b"\0\0\0\1" + b"2" + bytes(4)
    assert ccfile.read_tgt(head + FILE[4:OWNER_END] + setting + FILE[OWNER_END:]).der == ccfile.read_tgt(FILE).der


def test_every_prefix_is_refused():
    for end in range(len(FILE)):
        with pytest.raises((ProtocolError, CredentialError)) as caught:
            ccfile.read_tgt(FILE[:end])
        assert (end == OWNER_END) == isinstance(caught.value, CredentialError), "a whole file without a ticket"


@pytest.mark.parametrize("data", [b"\x05\x03\0\0", b"\x05\x04", b"", bytes(ccfile.MAX_FILE + 1), FILE + b"\0"])
def test_other_things_are_refused(data):
    with pytest.raises(ProtocolError) as caught:
        ccfile.read_tgt(data)
    assert caught.value.code == "ccache-malformed"


@settings(max_examples=300)
@given(at=st.integers(0, len(FILE) - 1), patch=st.binary(min_size=1, max_size=8))
def test_any_change_is_good_or_refused(at, patch):
    try:
        found = ccfile.read_tgt(FILE[:at] + patch + FILE[at + len(patch) :])
    except (ProtocolError, CredentialError):
        return
    assert found.tickets == 1


@given(st.binary(max_size=300))
def test_any_bytes(data):
    with pytest.raises((ProtocolError, CredentialError)):
        ccfile.read_tgt(b"\x05\x04" + data)
