"""Logins for which the KDC asks more than a password: MIT's OTP against a real RADIUS server, prompts over HTTP."""

import shutil
import tempfile
import time
from pathlib import Path

import pytest

from api_box import ApiBox
from radius_box import Radius

pytestmark = pytest.mark.kdc
CODES = {"alice": "123456", "bob": "pin-654321"}


@pytest.fixture(scope="module")
def box():
    dir = Path(tempfile.mkdtemp(prefix="hcs-radius-"))
    try:
        with Radius(dir, CODES) as radius, ApiBox(kdc_conf_more=radius.kdc_conf) as box:
            box.radius = radius
            # No keys: such users have no password that the KDC knows, the token is what they prove themselves with.
            box.realm.kadmin(
                *(f"purgekeys -all {name}" for name in CODES),
                'setstr alice otp "[{""type"": ""radius""}]"',
                'setstr bob otp "[{""type"": ""radius""}]"',
            )
            yield box
    finally:
        shutil.rmtree(dir, ignore_errors=True)


def attempt(box, username, *answers, password="x-any"):
    body = {"username": username, "password": password}
    if answers:
        body["answers"] = list(answers)
    with box.client() as client:
        return client.post("/v1/sessions", json=body)


def test_the_kdcs_prompt_comes_over_http_and_its_answer_opens_a_session(box):
    asked = attempt(box, "alice")
    assert (asked.status_code, asked.json()["code"]) == (409, "answers-wanted"), (asked.text, box.realm.log[-1500:])
    (prompt,) = asked.json()["prompts"]
    assert "OTP" in prompt["text"] and prompt["hidden"] is True, prompt
    made = attempt(box, "alice", CODES["alice"])
    assert made.status_code == 201, (made.text, box.log()[-2000:])
    assert made.json()["principal"] == "alice@REALM.TEST"
    with box.client(made.json()["token"]) as client:
        ticket = client.get("/v1/ticket").json()
    assert ticket["cache"] == ticket["session"], "the ticket was not filed"


def test_a_wrong_code_is_a_failed_login_like_any_other(box):
    answer = attempt(box, "alice", "000000")
    assert (answer.status_code, answer.json()["code"]) == (401, "login-failed"), answer.text
    assert "prompts" not in answer.json()
    unknown = attempt(box, "zoe", "000000")
    assert {**answer.json(), "request_id": ""} == {**unknown.json(), "request_id": ""}


def test_a_code_that_was_right_for_another_user_is_wrong(box):
    assert attempt(box, "bob", CODES["alice"]).json()["code"] == "login-failed"


def test_too_many_or_impossible_answers_are_refused_before_the_kdc_sees_them(box):
    before = box.realm.log
    for answers in (["1"] * 9, [""], ["a\u0000b"], ["x" * 513]):
        answer = attempt(box, "alice", *answers)
        assert answer.status_code == 400, (answers, answer.text)
    for raw in ('"123456"', "[123456]", "[null]", '[["1"]]', "{}"):
        body = f'{{"username": "alice", "password": "x", "answers": {raw}}}'
        with box.client() as client:
            answer = client.post("/v1/sessions", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400, (raw, answer.text)
    assert box.realm.log == before


def test_an_answer_nobody_asked_for_changes_nothing(box):
    """A user with a password: the answers are left over."""
    assert attempt(box, "carol", "123", password=box.passwords["carol"]).json()["code"] == "uid-too-low"


def test_codes_are_guessed_as_slowly_as_passwords(box):
    """Asking for the prompts again and again costs as much as guessing: otherwise a wrong password came for free."""
    codes = [attempt(box, "bob").json()["code"] for _ in range(12)]
    assert codes[0] == "answers-wanted" and codes[-1] == "too-many-failures", codes


def test_a_radius_server_that_is_down_is_not_the_users_fault(box):
    """No verdict means no session, and the service goes on; the KDC does not tell it from a wrong code."""
    assert attempt(box, "alice", CODES["alice"]).status_code == 201, "and with it all failures are forgotten"
    box.radius.stop()
    try:
        begin = time.monotonic()
        answer = attempt(box, "alice", CODES["alice"])
        assert answer.status_code in (401, 503), answer.text
        assert time.monotonic() - begin < 30
    finally:
        box.radius.start()
    assert attempt(box, "alice", CODES["alice"]).status_code == 201


def test_no_code_is_in_the_logs(box):
    for name in ("api", "signer", "auksd"):
        for code in CODES.values():
            assert code not in box.log(name), name
