"""`hipercow-slurm login` against a real KDC and our API: with the ticket that is here, and with one-time codes."""

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest

from api_box import ApiBox
from radius_box import Radius
from tmux import Terminal

pytestmark = pytest.mark.kdc
PROGRAM = [sys.executable, "-m", "hipercow_slurm"]
CODES = {"bob": "pin-654321"}


@pytest.fixture(scope="module")
def box():
    folder = Path(tempfile.mkdtemp(prefix="hcs-ways-"))
    try:
        with Radius(folder, CODES) as radius, ApiBox(kdc_conf_more=radius.kdc_conf) as box:
            box.realm.kadmin("purgekeys -all bob", 'setstr bob otp "[{""type"": ""radius""}]"')
            yield box
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def env(box, tmp_path):
    """A home with a configured cluster, and a place for a ticket."""
    config = tmp_path / ".config/hipercow-slurm/config.toml"
    config.parent.mkdir(parents=True)
    # The service's name is in the ticket: it is localhost's, not 127.0.0.1's.
    url = box.url.replace("127.0.0.1", "localhost")
    config.write_text(f'url = "{url}"\nca = "{box.certificate.certificate}"\n')
    own = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "LANG": "C.UTF-8", "TZ": "UTC"}
    own |= {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    return own | box.realm.env | {"KRB5CCNAME": f"FILE:{tmp_path}/cc"}


def run(env, *arguments, input=""):
    return subprocess.run(
        [*PROGRAM, *arguments], env=env, input=input, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_ticket_that_is_here_is_enough(box, env):
    """Nothing is asked, by `login` alone; the API holds alice's ticket afterwards, and the session is hers."""
    box.realm.kinit("alice", box.passwords["alice"], env["KRB5CCNAME"], "-f", "-r", "1d")
    done = run(env, "login")
    assert done.returncode == 0 and "as alice@REALM.TEST" in done.stdout, (done.stdout, done.stderr, box.log())
    ticket = run(env, "ticket")
    assert ticket.returncode == 0 and ticket.stdout.count("renewed until") == 2, (ticket.stdout, ticket.stderr)


def test_a_named_user_is_not_overruled_by_a_ticket_of_another(box, env):
    """kinit as an administrator, then `login -u alice`: alice it is."""
    box.realm.kinit("alice", box.passwords["alice"], env["KRB5CCNAME"], "-f")
    done = run(env, "login", "-u", "zoe", "--password-stdin", input="wrong\n")
    assert done.returncode == 3 and "[login-failed]" in done.stderr, done.stderr


def test_no_ticket_and_one_that_cannot_be_forwarded(box, env):
    done = run(env, "login", "--kerberos")
    assert (done.returncode, done.stdout) == (3, "") and "[no-credential]" in done.stderr, done.stderr
    assert "hint: kinit -f" in done.stderr and "Traceback" not in done.stderr
    box.realm.kinit("alice", box.passwords["alice"], env["KRB5CCNAME"], "-F")
    done = run(env, "login", "--kerberos")
    assert done.returncode == 3 and "[ticket-not-delegated]" in done.stderr, done.stderr


def test_a_server_that_does_not_prove_itself_is_not_believed(box, env, tmp_path):
    """Somebody with a certificate that we trust answers in the API's place, and says: you are logged in."""
    from starlette.responses import JSONResponse

    from fake_api import FakeApi, give

    box.realm.kinit("alice", box.passwords["alice"], env["KRB5CCNAME"], "-f")
    answer = {"session_id": "s", "token": "t", "principal": "alice@REALM.TEST", "localname": "alice", "uid": 1}
    liar = FakeApi((box.certificate.certificate, box.certificate.key))
    try:
        liar.answers["POST", "/v1/sessions"] = [give(JSONResponse(answer, 201))]
        url = liar.url.replace("127.0.0.1", "localhost")
        done = run(env, "login", "--kerberos", "--url", url, "--ca", str(box.certificate.certificate))
    finally:
        liar.close()
    assert done.returncode == 4 and "[server-not-proven]" in done.stderr, (done.stdout, done.stderr)
    assert not list(tmp_path.rglob("session*.json"))


def test_a_one_time_code_is_asked_for_and_not_shown(box, env, tmp_path):
    """The KDC's own question, from a real RADIUS token, on a real terminal; the code is not on the screen."""
    with ExitStack() as stack:
        place = tmp_path / "terminal"
        place.mkdir()
        screen = stack.enter_context(Terminal(place, ["env", "PS1=> ", "bash", "--norc", "--noprofile"], env))
        screen.shows(">$")
        screen.type(f"{' '.join(PROGRAM)} login -u bob; echo status $?")
        screen.shows("^Password of bob")
        screen.type("x-any")
        screen.shows("^(.*OTP.*):")
        screen.type(CODES["bob"])
        screen.shows("^status 0$")
        assert "logged in at" in screen.screen() and "as bob@REALM.TEST" in screen.screen(), screen.screen()
        assert CODES["bob"] not in screen.screen()
