"""Request bodies are taken strictly, and the password never becomes a Python string."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hipercow_slurm.api.password import password_of, wipe
from hipercow_slurm.api.schemas import Credential, JobAnswer, JobBody, LoginBody, decode, rfc3339
from hipercow_slurm.errors import RequestError

TEXT = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1, max_size=40)


def login(password_json: bytes) -> bytearray:
    return bytearray(b'{"username":"alice","password":' + password_json + b"}")


@settings(max_examples=200)
@given(TEXT, st.booleans())
def test_any_password_arrives_unchanged(text, ascii_only):
    body = login(json.dumps(text, ensure_ascii=ascii_only).encode())
    assert bytes(password_of(decode(body, LoginBody).password, 512)) == text.encode()


@pytest.mark.parametrize(
    "bad",
    [
        b'""',
        b"1",
        b"null",
        b'["x"]',
        b'"a\\u0000b"',
        b'"a\\nb"',
        b'"\\u007f"',
        b'"' + b"x" * 513 + b'"',
        b'"\xff\xfe"',
        b'"\xed\xa0\x80"',
        b'"\\ud800"',
        b'"\\ud800\\u0041"',
        b'"\\u12G4"',
    ],
)
def test_a_password_that_cannot_be_one_is_refused_without_repeating_it(bad):
    with pytest.raises(RequestError) as caught:
        password_of(decode(login(bad), LoginBody).password, 512)
    assert "xxxx" not in str(caught.value)


def test_wiping_is_in_place():
    body = login(b'"correct horse"')
    request = decode(body, LoginBody)
    password = password_of(request.password, 512)
    wipe(password)
    wipe(body)
    assert password == bytearray(13) and not any(bytes(request.password)), "the raw JSON is a view of the body"
    assert "horse" not in repr(request)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b"{",
        b'{"script":1}',
        b'{"script":"x","wibble":1}',
        b'{"script":"x","nodes":"2"}',
        b'{"script":"x","nodes":0}',
        b'{"script":"x","nodes":true}',
        b'{"script":"x","nodes":1e400}',
        b'{"script":"x","hold":"yes"}',
        b'{"script":"x","environment":["A=b"]}',
        b'{"script":"x","environment":{"A":1}}',
        b'{"script":"x","name":"\xff"}',
        b'{"script":"x","name":""}',
        b"[" * 100_000,
        b'{"script":' + b"[" * 100_000,
        b'{"script":"x","environment":' + b'{"a":' * 100_000,
        b"\xef\xbb\xbf{}",
    ],
)
def test_a_job_that_does_not_fit_is_a_bad_request(body):
    with pytest.raises(RequestError) as caught:
        decode(body, JobBody)
    assert caught.value.status == 400 and len(str(caught.value)) < 400


def test_an_unknown_key_is_named():
    with pytest.raises(RequestError, match="tmie_limit"):
        decode(b'{"script":"x","tmie_limit":5}', JobBody)


def test_warnings_travel_only_where_there_are_some():
    import msgspec

    fields = dict.fromkeys(JobAnswer.__struct_fields__)
    fields.pop("warnings")
    fields["credential"] = Credential(state="ok", valid_until=None, renewable_until=None, covers_job=None, sentence="")
    plain = json.loads(msgspec.json.encode(JobAnswer(**fields)))
    assert "warnings" not in plain and plain["exit_code"] is None, "null fields must be there"
    assert json.loads(msgspec.json.encode(JobAnswer(**fields, warnings=["w"])))["warnings"] == ["w"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, None),
        (None, None),
        (-1, None),
        (2**63, None),
        (1772330400, "2026-03-01T02:00:00Z"),
        (2**32 - 1, "2106-02-07T06:28:15Z"),
    ],
)
def test_times(seconds, text):
    assert rfc3339(seconds) == text
