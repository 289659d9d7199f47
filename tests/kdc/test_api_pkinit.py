"""Accounts for which the KDC wants a certificate or hardware, and SPAKE: MIT's KDC with PKINIT and SPAKE for real."""

import os
import re
import subprocess
import tempfile
from pathlib import Path

import pytest

from api_box import ApiBox
from pkinit_box import Pkinit

pytestmark = [pytest.mark.kdc, pytest.mark.xdist_group("api-pkinit")]  # one KDC

SPAKE = "edwards25519"
OCTETS = {"Content-Type": "application/octet-stream"}


@pytest.fixture(scope="module")
def pkinit():
    with tempfile.TemporaryDirectory(prefix="hcs-pkinit-") as folder:
        yield Pkinit(Path(folder))


@pytest.fixture(scope="module")
def box(pkinit):
    spake = f"[libdefaults]\n    spake_preauth_groups = {SPAKE}\n"
    with ApiBox(kdc_conf_more=pkinit.kdc_conf + spake) as box:
        # alice has no keys, only her card; bob has a password, and the KDC wants it from hardware.
        box.realm.kadmin("purgekeys -all alice", "modprinc +requires_hwauth bob", "addpol -maxfailure 5 strict")
        box.realm.kadmin("modprinc -policy strict carol")
        yield box


def attempt(box, username, password):
    with box.client() as client:
        return client.post("/v1/sessions", json={"username": username, "password": password})


@pytest.mark.parametrize("name", ["alice", "bob"])
def test_a_certificate_is_asked_for_in_a_clear_sentence(box, name):
    """Would have caught: "wrong password", or libkrb5's "generic preauthentication failure"."""
    answer = attempt(box, name, box.passwords[name]).json()
    assert (answer["status"], answer["code"]) == (403, "certificate-wanted"), answer
    assert "certificate" in answer["detail"] and "no password" in answer["detail"], answer
    assert "kinit" in answer["hint"] and "login --kerberos" in answer["hint"], answer


def test_a_ticket_got_with_the_certificate_opens_a_session(box, pkinit):
    """What the hint says, step by step: MIT's kinit with the card, then the ticket, here uploaded."""
    path = box.dir / "cc-card"
    argv = ["kinit", "-f", "-c", f"FILE:{path}", *pkinit.card("alice"), "alice"]
    done = subprocess.run(
        argv, env={**os.environ, **box.realm.env}, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.returncode == 0, (done.stderr, box.realm.log[-1500:])
    with box.client() as client:
        made = client.post("/v1/sessions", content=path.read_bytes(), headers=OCTETS)
    assert made.status_code == 201 and made.json()["principal"] == "alice@REALM.TEST", made.text
    with box.client(made.json()["token"]) as client:
        ticket = client.get("/v1/ticket").json()
    assert ticket["cache"] == ticket["session"], "the ticket was not filed"


def test_hardware_that_nothing_here_can_ask_for(box):
    """The same account at a KDC without PKINIT: no way in for us, and that is said."""
    conf = box.realm.dir / "kdc.conf"
    kept = conf.read_text()
    conf.write_text(kept.replace("pkinit_identity", "no_pkinit_identity"))
    box.realm.restart()
    try:
        answer = attempt(box, "bob", box.passwords["bob"]).json()
    finally:
        conf.write_text(kept)
        box.realm.restart()
    assert (answer["status"], answer["code"]) == (403, "login-unsupported"), answer
    assert "something else than a password" in answer["detail"] and answer["hint"], answer


def test_passwords_go_on_beside_pkinit_and_a_wrong_one_is_wrong_and_counts_once(box):
    """Would have caught: libkrb5 going on to PKINIT after a wrong password, and ending with another reason."""
    answer = attempt(box, "carol", "wrong")
    assert (answer.status_code, answer.json()["code"]) == (401, "login-failed"), answer.text
    assert re.search(r"Failed password attempts: 1\n", box.realm.kadmin("getprinc carol"))
    assert attempt(box, "carol", box.passwords["carol"]).json()["code"] == "uid-too-low", "the KDC let her in"


@pytest.mark.parametrize("fast", ["try", "off"])
def test_spake(box, fast):
    """The KDC proposes it, and a client that knows a group of it uses it, also inside of our armour."""
    conf = box.realm.krb5_conf
    kept = conf.read_text()
    conf.write_text(kept.replace("[libdefaults]\n", f"[libdefaults]\n    spake_preauth_groups = {SPAKE}\n"))
    trace = box.dir / f"trace-{fast}"
    trace.touch()
    trace.chmod(0o666)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KRB5_TRACE", str(trace))  # of the API's process, which configured() starts anew
            with box.configured(fast=fast):
                right, wrong = attempt(box, "carol", box.passwords["carol"]), attempt(box, "carol", "wrong")
    finally:
        conf.write_text(kept)
    assert right.json()["code"] == "uid-too-low", (right.text, box.log()[-1500:])
    assert (wrong.status_code, wrong.json()["code"]) == (401, "login-failed"), wrong.text
    said = trace.read_text()
    assert "SPAKE challenge received with group 1" in said, said[-3000:]
    assert ("FAST armor ccache" in said) == (fast == "try")
