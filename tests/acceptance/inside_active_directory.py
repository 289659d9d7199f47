"""What ``test_active_directory.py`` runs beside a domain controller: our API and cache, with AD as their KDC."""

import time

import pytest
from ad_domain import Domain

import api_box
from api_box import ApiBox

# Samba's KDC refuses a TGT in the last two minutes of its life (it takes it for kpasswd's): so renewal comes early.
LIFE_S = 200
RENEW = "[renew]\nat = 0.15\njitter = 0.05\n"


def proof(what, evidence):
    print(f"\nPROOF {what}: {evidence}")


@pytest.fixture(scope="module")
def box():
    api_box.Realm = Domain
    api_box.API_TOML = api_box.API_TOML.replace("[signer]", f"ticket_life_s = {LIFE_S}\n[signer]", 1)
    api_box.AUKSD_TOML += RENEW
    box = ApiBox()
    # Active Directory's rules: seven characters of three kinds.
    box.passwords = {name: f"x-{name.title()}-{password}" for name, password in box.passwords.items()}
    with box:
        box.realm.add_user("mustchange", "x-Must-4711", needchange=True)
        box.realm.add_user("locked", "x-Lock-4711", allow_tix=False)
        yield box


def attempt(box, username, password):
    with box.client() as client:
        return client.post("/v1/sessions", json={"username": username, "password": password})


def test_login_files_a_ticket_and_the_cache_keeps_it_fresh(box):
    made = box.login("alice")
    with box.client(made["token"]) as client:
        first = client.get("/v1/ticket").json()["cache"]
        end = time.monotonic() + LIFE_S / 2
        while time.monotonic() < end:
            now = client.get("/v1/ticket").json()["cache"]
            assert now is not None, box.log("auksd")[-3000:] + box.log()[-3000:]
            if now["valid_until"] > first["valid_until"]:
                break
            time.sleep(1)
    assert now["valid_until"] > first["valid_until"], (first, now, box.log("auksd")[-2000:])
    proof("login, filed, renewed by the cache", f"{first['valid_until']} -> {now['valid_until']}")


def test_a_job_is_submitted_as_its_owner(box):
    """Through the signer, which asks for a ticket of its own service: a service principal name of an account."""
    with box.as_user("bob") as client:
        answer = client.post("/v1/jobs", json={"script": "#!/bin/sh\ntrue\n"})
    assert answer.status_code == 201, (answer.text, box.log("signer")[-2000:], box.log()[-2000:])
    proof("signer takes AD's tickets", f"job {answer.json()['job_id']} submitted as bob")


def test_refusals_are_told_apart(box):
    wrong, unknown = attempt(box, "alice", "wrong"), attempt(box, "zoe", "wrong")
    assert wrong.status_code == 401
    assert {**wrong.json(), "request_id": 0} == {**unknown.json(), "request_id": 0}
    assert attempt(box, "locked", "x-Lock-4711").json()["code"] == "account-locked"
    proof("wrong, unknown, locked", "401 login-failed twice, alike; account-locked")


def test_names_are_of_any_case_there_and_of_one_here(box):
    """AD takes Alice for alice. We do not: the account's name decides, and it is spelled in one way."""
    answer = attempt(box, "Alice", box.passwords["alice"])
    assert (answer.status_code, answer.json()["code"]) == (403, "no-such-account"), answer.text
    proof("'Alice' for alice", "no-such-account")


def test_the_spellings_of_a_name_together_do_not_lock_the_account(box):
    """Would have caught: two tries for each of bob, Bob, bOB ..., all of which the domain counts as bob's."""
    box.realm.tool("domain", "passwordsettings", "set", "--account-lockout-threshold=5")
    names = ("bob", "Bob", "bOb", "boB", "BOb", "BoB", "bOB", "BOB")
    codes = [attempt(box, name, "wrong").json()["code"] for name in names]
    box.realm.kinit("bob", box.passwords["bob"], f"FILE:{box.dir}/cc-bob")  # not through us: raises where it is locked
    judged = codes.count("login-failed")
    assert 1 <= judged < 5 and codes[judged:] == ["too-many-failures"] * (len(names) - judged), codes
    proof("guesses under eight spellings of one name", f"{judged} reached the domain; the account is not locked")


def test_a_password_that_must_change(box):
    """Without armour for the exchange (no TGT for a service principal name) it cannot go on here, and says so."""
    answer = attempt(box, "mustchange", "x-Must-4711")
    assert answer.json()["code"].startswith("password-"), answer.text
    assert "kpasswd" in answer.json()["hint"]
    proof("a password that must be changed", f"{answer.status_code} {answer.json()['code']}")


def test_a_password_that_must_change_is_changed_where_we_have_armour(box):
    """The account's user principal name made the same as its service principal name: then it gets a TGT."""
    box.realm.set_attribute("svc-http", "userPrincipalName", "HTTP/localhost@REALM.TEST")
    box.restart("api")
    asked = attempt(box, "mustchange", "x-Must-4711")
    assert asked.status_code == 409, (asked.text, box.log()[-3000:])
    with box.client() as client:
        made = client.post(
            "/v1/conversations",
            json={"conversation": asked.json()["conversation"], "new_password": "x-Changed-4712"},
        )
    # The new password is taken; "mustchange" has no account on this host, which is looked at last.
    assert made.json()["code"] == "no-such-account", (made.text, box.log()[-3000:])
    proof("a password that must be changed, with armour", "409, then changed through us by kpasswd")
