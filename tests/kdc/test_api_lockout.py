"""A KDC that locks accounts after five wrong passwords: nobody can make it do so through the API."""

import re
import time

import httpx
import pytest

from api_box import ApiBox

pytestmark = [pytest.mark.kdc, pytest.mark.xdist_group("api-lockout")]  # the order counts

MAX_FAILURES = 5


@pytest.fixture(scope="module")
def box():
    with ApiBox() as box:
        box.realm.kadmin(f"addpol -maxfailure {MAX_FAILURES} -failurecountinterval 30m -lockoutduration 0 strict")
        for name in ("alice", "bob", "carol"):
            box.realm.kadmin(f"modprinc -policy strict {name}")
        yield box


def attempt(box, username, password, address):
    transport = httpx.HTTPTransport(verify=box.certificate.client(), local_address=address)
    with httpx.Client(base_url=box.url, transport=transport, timeout=40) as client:
        return client.post("/v1/sessions", json={"username": username, "password": password})


def failures(box, name):
    """How many the KDC has counted."""
    found = re.search(r"Failed password attempts: (\d+)", box.realm.kadmin(f"getprinc {name}"))
    assert found
    return int(found[1])


def test_the_kdc_does_lock_who_fails_too_often(box):
    """Without this the others would prove nothing; and what its owner is told then."""
    for _ in range(MAX_FAILURES):
        with pytest.raises(RuntimeError, match=r"[Pp]reauthentication failed|[Ii]ncorrect"):
            box.realm.kinit("carol", "wrong", f"FILE:{box.dir}/cc-carol")
    answer = attempt(box, "carol", box.passwords["carol"], "127.0.0.1")
    assert (answer.status_code, answer.json()["code"]) == (403, "account-locked"), answer.text


def test_a_wrong_password_costs_one_failure_at_the_kdc(box):
    """Would have caught: libkrb5, or our own second try without armour, asking again with the same wrong password."""
    assert attempt(box, "bob", "wrong", "127.0.0.2").status_code == 401
    assert failures(box, "bob") == 1
    assert attempt(box, "bob", box.passwords["bob"], "127.0.0.2").status_code == 201
    assert failures(box, "bob") == 0


def test_one_address_cannot_keep_alice_out_elsewhere(box):
    """alice has never logged in before; what the guesser leaves is enough for a right password."""
    codes = [attempt(box, "alice", f"guess{n}", "127.0.0.66").json()["code"] for n in range(8)]
    assert codes == ["login-failed"] * 2 + ["too-many-failures"] * 6
    assert failures(box, "alice") == 2, "the KDC was asked for the others, too"
    made = attempt(box, "alice", box.passwords["alice"], "127.0.0.7")
    assert made.status_code == 201, made.text


def test_all_spellings_of_a_name_are_one_user(box):
    """Would have caught: two tries for each of eve, Eve, eVE ... at a KDC (Active Directory) to which they are one."""
    codes = [attempt(box, name, "guess", "127.0.0.67").json()["code"] for name in ("eve", "Eve", "eVE", "EVE", "evE")]
    assert codes == ["login-failed"] * 2 + ["too-many-failures"] * 3
    at_home = attempt(box, "BOB", box.passwords["bob"], "127.0.0.67")
    assert at_home.json()["code"] == "login-failed", "MIT's KDC knows no BOB"


def test_many_addresses_cannot_lock_alice_at_the_kdc_nor_out_of_where_she_is_known(box):
    codes = [attempt(box, "alice", f"guess{n}", f"127.0.1.{n}").json()["code"] for n in range(20)]
    assert codes == ["login-failed"] * 3 + ["too-many-failures"] * 17
    assert 0 < failures(box, "alice") < MAX_FAILURES - 1
    stranger = attempt(box, "alice", box.passwords["alice"], "127.0.2.1")
    assert stranger.status_code == 429 and 0 < int(stranger.headers["Retry-After"]) <= 1801, stranger.text
    at_home = attempt(box, "alice", box.passwords["alice"], "127.0.0.7")
    assert at_home.status_code == 201, at_home.text
    assert failures(box, "alice") == 0, "a right password ends the KDC's count"
    elsewhere = attempt(box, "alice", box.passwords["alice"], "127.0.2.1")
    assert elsewhere.status_code == 201, "and ours"


def test_who_burns_an_address_keeps_out_nobody_who_is_known_there(box):
    """Last, as it empties the bucket of alice's own address, with tickets that have expired: of a login node, say, that
    she shares with whoever does it. Would have caught: nobody there let in for as long as that goes on; refusals of
    tickets that are in no audit log."""
    stale = box.dir / "cc-stale"
    box.realm.kinit("bob", box.passwords["bob"], f"FILE:{stale}", "-l", "1s")
    time.sleep(3)
    transport = httpx.HTTPTransport(verify=box.certificate.client(), local_address="127.0.0.7")
    with httpx.Client(base_url=box.url, transport=transport, timeout=40) as client:
        sent = {"content": stale.read_bytes(), "headers": {"Content-Type": "application/octet-stream"}}
        codes = ["expired"]
        while codes[-1] == "expired" and len(codes) < 300:
            codes.append(client.post("/v1/sessions", **sent).json()["code"])
    assert codes[-1] == "too-many-failures" and 200 < len(codes) < 250, (codes[-1], len(codes))
    audited = (box.dir / "audit/api.audit").read_text().splitlines()[-1]
    assert "way=ticket too-many-failures" in audited, audited
    assert attempt(box, "bob", box.passwords["bob"], "127.0.0.7").json()["code"] == "too-many-failures"
    made = attempt(box, "alice", box.passwords["alice"], "127.0.0.7")
    assert made.status_code == 201, made.text
