"""Whom the KDC lets in and we do not, and the KDC's rarer reasons: each a code and a sentence of its own."""

import pytest

from api_box import ApiBox

pytestmark = [pytest.mark.kdc, pytest.mark.xdist_group("api-reasons")]

PASSWORD = "x-Reasons-1"
# What a slip in krb5.conf can make of a name.
RULES = (
    "RULE:[1:$1](eve)s/eve/root/",
    "RULE:[1:$1](mallory)s/mallory/slurm/",
    "RULE:[1:$1](trent)s/trent/al ice/",
    "RULE:[1:$1](oscar)s/oscar//",
    "RULE:[1:$1](victor)s/victor/Bob/",
    "DEFAULT",
)


@pytest.fixture(scope="module")
def box():
    with ApiBox(auth_to_local=RULES) as box:
        for name in ("root", "slurm", "nobody", "eve", "mallory", "trent", "oscar", "victor"):
            box.realm.add_user(name, PASSWORD)
        box.realm.add_user("gone", PASSWORD, expire="yesterday")
        yield box


def attempt(box, name, password=PASSWORD):
    with box.client() as client:
        return client.post("/v1/sessions", json={"username": name, "password": password})


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("root", "uid-too-low"),
        ("slurm", "account-denied"),
        ("nobody", "account-denied"),
        ("eve", "uid-too-low"),
        ("mallory", "account-denied"),
        ("trent", "no-localname"),
        ("oscar", "no-localname"),
        ("victor", "no-such-account"),
        ("gone", "account-expired"),
    ],
)
def test_a_right_password_is_not_enough(box, name, code):
    """Would have caught: Slurm's own user, whose uid is 64030 on Debian, logging in like a person."""
    answer = attempt(box, name)
    assert (answer.status_code, answer.json()["code"]) == (403, code), answer.text
    assert answer.json()["hint"]


def test_a_kdc_whose_clock_is_off(box, shift_clock):
    """An administrator's matter, and no failed login: nothing is counted, and everybody is let in afterwards."""
    box.realm.kdc_env = shift_clock(3600)
    box.realm.restart()
    try:
        answers = [attempt(box, "alice", box.passwords["alice"]) for _ in range(5)]
    finally:
        box.realm.kdc_env = {}
        box.realm.restart()
    assert {(one.status_code, one.json()["code"]) for one in answers} == {(403, "clock-skew")}, answers[0].text
    assert "administrator" in answers[0].json()["hint"]
    assert attempt(box, "alice", box.passwords["alice"]).status_code == 201
