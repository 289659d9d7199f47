"""Ways in beside a plain password: Negotiate with curl, HTTP Basic, an uploaded ticket, a password that must change."""

import base64
import contextlib
import json
import os
import pty
import select
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from api_box import ApiBox
from hipercow_slurm.krb5 import ccache, krbcred
from hipercow_slurm.testing.realm import Realm

pytestmark = pytest.mark.kdc

OCTETS = {"Content-Type": "application/octet-stream"}


@pytest.fixture(scope="module")
def box():
    with ApiBox(passwords_change=True) as box:
        box.realm.kadmin("addpol -minlength 12 strict", "modprinc -policy strict alice")
        yield box


@pytest.fixture(scope="module")
def tickets(box):
    """FILE caches filled by MIT's kinit, by user; and one that is not forwardable."""
    made = {}
    for name in ("alice", "bob"):
        made[name] = box.dir / f"cc-{name}"
        box.realm.kinit(name, box.passwords[name], f"FILE:{made[name]}", "-f", "-r", "1d")
    made["not forwardable"] = box.dir / "cc-not-forwardable"
    box.realm.kinit("alice", box.passwords["alice"], f"FILE:{made['not forwardable']}", "-F")
    return made


def attempt(box, username, password):
    with box.client() as client:
        return client.post("/v1/sessions", json={"username": username, "password": password})


def basic(username, password):
    return {"Authorization": "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()}


def cached(box, ticket):
    """What a FILE cache holds, as a KRB-CRED."""
    with box.realm.activated():
        return ccache.read_tgt(f"FILE:{ticket}")


# Negotiate


def curl(box, ticket, *options):
    """curl's exit status, the HTTP status and headers, and the body."""
    argv = ["curl", "--silent", "--show-error", "--include", "--http1.1", "--request", "POST", "--negotiate"]
    argv += ["--user", ":", "--cacert", str(box.certificate.certificate), *options]
    done = subprocess.run(
        [*argv, f"https://localhost:{box.port}/v1/sessions"],
        env={"PATH": os.environ["PATH"], "KRB5CCNAME": f"FILE:{ticket}", **box.realm.env},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    *heads, body = done.stdout.replace("\r\n", "\n").split("\n\n")
    return int(heads[-1].split(" ", 2)[1]), heads[-1], json.loads(body)


def test_curl_logs_in_with_a_delegated_ticket(box, tickets):
    status, head, made = curl(box, tickets["alice"], "--delegation", "always")
    assert status == 201, (head, made, box.log())
    assert (made["principal"], made["uid"]) == ("alice@REALM.TEST", 5001)
    assert "www-authenticate: negotiate ey" not in head.lower() and "www-authenticate: negotiate " in head.lower()
    with box.client(made["token"]) as client:
        ticket = client.get("/v1/ticket").json()
    assert ticket["session"] == made["ticket"] == ticket["cache"], "the delegated ticket must be in the cache"
    assert made["ticket"]["renewable_until"], "a delegated ticket can be renewed as the user's own"


def test_the_answer_to_negotiate_proves_the_service(box, tickets, monkeypatch):
    """Mutual authentication, checked by GSSAPI as a client, and the same token again is refused as a replay."""
    import gssapi

    monkeypatch.setenv("KRB5CCNAME", f"FILE:{tickets['alice']}")
    with box.realm.activated():
        context = gssapi.SecurityContext(
            name=gssapi.Name("HTTP@localhost", gssapi.NameType.hostbased_service),
            mech=gssapi.OID.from_int_seq("1.3.6.1.5.5.2"),
            usage="initiate",
            flags=gssapi.RequirementFlag.mutual_authentication | gssapi.RequirementFlag.delegate_to_peer,
        )
        header = {"Authorization": "Negotiate " + base64.b64encode(context.step()).decode()}
        with box.client() as client:
            answer = client.post("/v1/sessions", headers=header)
            again = client.post("/v1/sessions", headers=header)
        assert answer.status_code == 201, answer.text
        assert not context.complete
        context.step(base64.b64decode(answer.headers["WWW-Authenticate"].removeprefix("Negotiate ")))
    assert context.complete, "the service has not proved itself"
    assert again.status_code == 401, again.text


@pytest.mark.parametrize(("ticket", "options"), [("alice", ()), ("not forwardable", ("--delegation", "always"))])
def test_without_delegation_the_next_step_is_said(box, tickets, ticket, options):
    status, head, problem = curl(box, tickets[ticket], *options)
    assert (status, problem["code"]) == (403, "ticket-not-delegated"), (head, problem)
    assert "kinit -f" in problem["hint"] and "alice@REALM.TEST" in problem["detail"]


@pytest.mark.parametrize("token", ["x", "!!!!", "TlRMTVNTUAABAAAAB4IIogAAAAAAAAAAAAAAAAAAAAAGAbEdAAAADw==", "YII="])
def test_tokens_that_are_none_are_refused(box, token):
    with box.client() as client:
        answer = client.post("/v1/sessions", headers={"Authorization": f"Negotiate {token}"})
    assert answer.status_code in (400, 401), answer.text
    assert answer.json()["code"] in ("bad-token", "negotiate-failed", "not-authenticated"), answer.text


def test_a_token_for_another_service_is_refused(box, tickets, monkeypatch):
    import gssapi

    monkeypatch.setenv("KRB5CCNAME", f"FILE:{tickets['alice']}")
    with box.realm.activated():
        name = gssapi.Name("auks@localhost", gssapi.NameType.hostbased_service)
        context = gssapi.SecurityContext(name=name, usage="initiate")
        token = base64.b64encode(context.step()).decode()
    with box.client() as client:
        answer = client.post("/v1/sessions", headers={"Authorization": f"Negotiate {token}"})
    assert answer.status_code == 401, (answer.text, [x[-700:] for x in box.log().splitlines() if "http.bug" in x])
    assert answer.json()["code"] in ("not-for-us", "negotiate-failed"), answer.text


def test_nothing_at_all_is_answered_with_the_ways_in(box):
    with box.client() as client:
        answer = client.post("/v1/sessions")
    assert answer.status_code == 401 and "Negotiate" in answer.headers["WWW-Authenticate"], answer.text
    assert "Basic" not in answer.headers["WWW-Authenticate"], (
        "browsers would send the password with other sites' requests"
    )


# Basic


def test_basic_works_on_any_route_and_asks_the_kdc_once(box):
    header = basic("bob", box.passwords["bob"])
    box.login("bob")
    with ThreadPoolExecutor(6) as threads, box.client() as client:
        before = box.realm.log.count("AS_REQ")
        answers = list(threads.map(lambda path: client.get(path, headers=header), ["/v1/ticket", "/v1/sessions"] * 3))
        asked = box.realm.log.count("AS_REQ") - before
    assert [a.status_code for a in answers] == [200] * 6, [a.text for a in answers]
    assert answers[0].json()["principal"] == "bob@REALM.TEST"
    current = [row for row in answers[1].json()["sessions"] if row["current"]]
    life = [row["expires_at"] > row["created_at"] for row in current]
    assert len(current) == 1 and life == [True]
    assert asked <= 3, f"{asked} AS exchanges for six requests"


def test_a_basic_session_is_short_and_can_be_ended(box):
    header = basic("bob", box.passwords["bob"])
    with box.client() as client:
        row = next(r for r in client.get("/v1/sessions", headers=header).json()["sessions"] if r["current"])
        made, over = (time.mktime(time.strptime(row[k], "%Y-%m-%dT%H:%M:%SZ")) for k in ("created_at", "expires_at"))
        assert 0 < over - made <= 300
        assert client.delete("/v1/sessions/current", headers=header).status_code == 204
        after = next(r for r in client.get("/v1/sessions", headers=header).json()["sessions"] if r["current"])
    assert after["session_id"] != row["session_id"], "an ended session answered"


def test_the_same_basic_many_times_at_once_is_one_try(box):
    """Would have caught: a client with an old password that counts as several guesses; or, with a KDC that hangs, as
    many time-outs one after the other as it had sent requests."""
    header = basic("basilia", "old-password")
    before = box.realm.log.count("basilia@REALM.TEST")
    box.realm.pause()
    try:
        with ThreadPoolExecutor(8) as threads, box.client() as client:
            asked = [threads.submit(client.get, "/v1/ticket", headers=header) for _ in range(8)]
            time.sleep(0.6)  # all of them have come
            box.realm.resume()
            answers = [one.result() for one in asked]
    finally:
        box.realm.resume()
    assert {(a.status_code, a.json()["code"]) for a in answers} == {(401, "login-failed")}, [a.text for a in answers]
    assert 1 <= box.realm.log.count("basilia@REALM.TEST") - before <= 2, "the KDC was asked for each"
    assert box.log().count("way=basic principal=unknown:") == 1, "each is in the log as a guess"
    slow = [line for line in box.log().splitlines() if "event=login.slow" in line]
    assert slow and "failed_login_s" in slow[-1], "nobody is told that refusals take longer than they should"


def test_wrong_basic_is_refused_as_a_wrong_login_and_throttled_with_it(box):
    with box.client() as client:
        answers = [client.get("/v1/ticket", headers=basic("basil", f"guess{n}")) for n in range(6)]
        other = attempt(box, "basil", "guess")
    assert [a.status_code for a in answers] == [401] * 2 + [429] * 4, [a.text for a in answers]
    assert answers[0].json()["code"] == "login-failed" and other.status_code == 429
    for text in ("bm9jb2xvbg==", "!!", base64.b64encode(b"\xff:x").decode(), "A" * 5000):
        with box.client() as client:
            answer = client.get("/v1/ticket", headers={"Authorization": f"Basic {text}"})
        assert (answer.status_code, answer.json()["code"]) == (401, "not-authenticated"), (text, answer.text)


# An uploaded ticket


@pytest.mark.parametrize("form", ["FILE cache", "KRB-CRED"])
def test_an_uploaded_ticket_opens_a_session(box, tickets, form):
    data = tickets["bob"].read_bytes() if form == "FILE cache" else cached(box, tickets["bob"]).der
    with box.client() as client:
        answer = client.post("/v1/sessions", content=data, headers=OCTETS)
        assert answer.status_code == 201, (answer.text, box.log())
        assert answer.json()["principal"] == "bob@REALM.TEST"
        client.headers["Authorization"] = f"Bearer {answer.json()['token']}"
        assert client.get("/v1/ticket").json()["session"] == answer.json()["ticket"]


def forged(cred, **changes):
    """The ticket with other words about itself."""
    import dataclasses

    (one, *_) = krbcred.tickets(cred)
    return krbcred.build([dataclasses.replace(one, **changes)]).der


def test_a_ticket_is_believed_only_as_far_as_the_kdc_confirms_it(box, tickets, tmp_path):
    """bob's own ticket under alice's name; alice's without its session key; one of a lying KDC of the same name."""
    bobs, alices = cached(box, tickets["bob"]), cached(box, tickets["alice"])
    with Realm(tmp_path / "liar") as liar:
        liar.add_user("alice", "guessed")
        liar.kinit("alice", "guessed", f"FILE:{tmp_path}/cc")
    lies = {
        "bob's under alice's name": forged(bobs, client="alice@REALM.TEST"),
        "alice's without the key": forged(alices, key=bytes(32)),
        "of another KDC": (tmp_path / "cc").read_bytes(),
    }
    for what, data in lies.items():
        with box.client() as client:
            answer = client.post("/v1/sessions", content=data, headers=OCTETS)
        assert (answer.status_code, answer.json()["code"]) == (403, "ticket-refused"), (what, answer.text)


def test_the_ticket_of_a_service_is_nobodys(box, tmp_path):
    """Would have caught: "the username must be a plain account name", to somebody who had given none."""
    argv = ["kinit", "-k", "-t", str(box.dir / "api.keytab"), "-c", f"FILE:{tmp_path}/cc", "HTTP/localhost"]
    subprocess.run(argv, env={**os.environ, **box.realm.env}, check=True, capture_output=True)
    with box.client() as client:
        answer = client.post("/v1/sessions", content=(tmp_path / "cc").read_bytes(), headers=OCTETS)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad-username"), answer.text
    assert "HTTP/localhost@REALM.TEST" in answer.json()["detail"] and "username" not in answer.json()["detail"]


@pytest.mark.parametrize("data", [b"", b"x", b"\x05\x04", b"\x76\x82\x10\x00", b"\x05\x04" + bytes(5000), b"{}"])
def test_uploads_that_are_no_ticket(box, data):
    with box.client() as client:
        answer = client.post("/v1/sessions", content=data, headers=OCTETS)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad-ticket"), answer.text


def test_put_ticket_replaces_the_sessions_and_the_caches(box, tickets):
    box.realm.kadmin("modprinc -maxrenewlife 2h bob")
    made = box.login("bob")
    box.realm.kadmin("modprinc -maxrenewlife 7d bob")
    longer = box.dir / "cc-longer"
    box.realm.kinit("bob", box.passwords["bob"], f"FILE:{longer}", "-f", "-r", "3d")
    with box.client(made["token"]) as client:
        client.delete("/v1/ticket")  # the cache keeps a better one
        answer = client.put("/v1/ticket", content=longer.read_bytes(), headers=OCTETS)
        assert answer.status_code == 200, answer.text
        now = client.get("/v1/ticket").json()
        assert now["session"] == now["cache"] and now["session"]["renewable_until"] > made["ticket"]["renewable_until"]
        row = next(r for r in client.get("/v1/sessions").json()["sessions"] if r["current"])
        assert row["expires_at"] > made["expires_at"], "the session lasts as long as its new ticket"
    box.restart("api")
    with box.client(made["token"]) as client:
        assert client.get("/v1/ticket").json()["session"] == now["session"], "the new ticket was not kept"


def test_put_ticket_takes_no_other_persons(box, tickets):
    with box.as_user("bob") as client:
        answer = client.put("/v1/ticket", content=tickets["alice"].read_bytes(), headers=OCTETS)
        assert (answer.status_code, answer.json()["code"]) == (403, "principal-mismatch"), answer.text
        assert client.put("/v1/ticket", content=b"x", headers=OCTETS).status_code == 400
        assert client.put("/v1/ticket", json={}).status_code == 415
        lie = forged(cached(box, tickets["alice"]), client="bob@REALM.TEST")
        answer = client.put("/v1/ticket", content=lie, headers=OCTETS)
        assert (answer.status_code, answer.json()["code"]) == (403, "ticket-refused"), answer.text
        assert client.get("/v1/ticket").json()["principal"] == "bob@REALM.TEST"


def test_delete_ticket_empties_the_cache_and_a_login_fills_it(box):
    with box.as_user("alice") as client:
        assert client.get("/v1/ticket").json()["cache"]
        assert client.delete("/v1/ticket").status_code == 204
        gone = client.get("/v1/ticket").json()
        assert gone["cache"] is None and gone["session"], gone
        again = client.delete("/v1/ticket")
        assert (again.status_code, again.json()["code"]) == (404, "no-ticket-filed")
        box.login("alice")
        time.sleep(2.1)  # what the cache said is remembered for two seconds
        assert client.get("/v1/ticket").json()["cache"]


# A password that must be changed


def converse(box, conversation, password):
    with box.client() as client:
        return client.post("/v1/conversations", json={"conversation": conversation, "new_password": password})


def test_a_password_that_must_change_is_changed_in_a_conversation(box):
    box.realm.kadmin("modprinc +needchange alice")
    old, new = box.passwords["alice"], "Nu-Fahrrad-Ä-77 und mehr"
    wrong = attempt(box, "alice", "not it")
    assert (wrong.status_code, wrong.json()["code"]) == (401, "login-failed"), "told a guesser that it must change"
    begun = attempt(box, "alice", old)
    assert (begun.status_code, begun.json()["code"]) == (409, "password-must-change"), begun.text
    conversation = begun.json()["conversation"]
    short = converse(box, conversation, "short")
    assert (short.status_code, short.json()["code"]) == (422, "password-rejected"), short.text
    assert "too short" in short.json()["detail"].lower(), "the KDC's own words"
    made = converse(box, conversation, new)
    assert made.status_code == 201, (made.text, box.log())
    box.passwords["alice"] = new
    with box.client(made.json()["token"]) as client:
        assert client.get("/v1/ticket").json()["principal"] == "alice@REALM.TEST"
    assert attempt(box, "alice", old).status_code == 401 and box.login("alice")
    again = converse(box, conversation, "another-Password-1")
    assert (again.status_code, again.json()["code"]) == (404, "no-such-conversation"), "a conversation ends"
    for secret in (old, new, conversation):
        assert secret not in box.log()


def test_a_conversation_has_few_tries_and_nothing_to_guess(box):
    box.realm.add_user("eva", "x-Eva-Eva-1234", policy="strict", pwexpire="yesterday")
    begun = attempt(box, "eva", "x-Eva-Eva-1234").json()
    assert begun["code"] == "password-expired" and len(begun["conversation"]) == 43
    answers = [converse(box, begun["conversation"], "short") for _ in range(6)]
    assert [a.status_code for a in answers] == [422] * 5 + [404], [a.text for a in answers]
    assert converse(box, "A" * 43, "x" * 20).status_code == 404
    assert converse(box, begun["conversation"], "").status_code == 400


def test_of_two_new_passwords_at_once_one_is_set(box):
    """Would have caught: both set, one after the other, and a user told to log in with the one that is not it."""
    box.realm.kadmin("modprinc +needchange bob")
    conversation = attempt(box, "bob", box.passwords["bob"]).json()["conversation"]
    tried = [f"at-Once-{number}-bob" for number in range(4)]
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda new: converse(box, conversation, new), tried))
    codes = [a.json().get("code", "set") for a in answers]
    assert sorted(codes) == ["no-such-conversation"] * 3 + ["set"], codes
    box.passwords["bob"] = tried[codes.index("set")]
    assert box.login("bob")


def test_a_conversation_is_over_when_the_kdcs_ticket_for_it_is(box):
    """Would have caught: a conversation that can be gone on with for ever by whoever finds its id."""
    box.realm.kadmin("modprinc -maxlife 2s kadmin/changepw", "modprinc +needchange bob")
    try:
        begun = attempt(box, "bob", box.passwords["bob"]).json()
        time.sleep(2.5)
        answer = converse(box, begun["conversation"], "never-Taken-1-bob")
    finally:
        box.realm.kadmin("modprinc -maxlife 5m kadmin/changepw", "modprinc -needchange bob")
    assert (answer.status_code, answer.json()["code"]) == (404, "no-such-conversation"), answer.text
    assert "log in again" in answer.json()["hint"] and box.login("bob")


def test_a_changed_password_is_said_to_be_changed_also_where_the_login_then_fails(box):
    """Would have caught: "is auksd running?" and a conversation that is over, told to who has a new password now."""
    box.realm.kadmin("modprinc +needchange bob")
    begun, new = attempt(box, "bob", box.passwords["bob"]).json(), "quite-New-1-bob"
    with box.without("auksd"):
        answer = converse(box, begun["conversation"], new)
    box.passwords["bob"] = new
    assert (answer.status_code, answer.json()["code"]) == (503, "cache-unreachable"), answer.text
    assert "password has been changed" in answer.json()["hint"], answer.text
    assert box.login("bob")


def on_a_terminal(argv, env, answers):
    """Run a program on a pseudo-terminal and answer its prompts in order; its exit status and all it showed."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(argv[0], argv, env)
    shown, answered = b"", 0
    with contextlib.suppress(OSError):  # EIO: the program has ended
        while select.select([terminal], [], [], 20)[0] and (more := os.read(terminal, 4096)):
            shown += more
            if len(answers) > answered and answers[answered][0].encode() in shown.rpartition(b"\n")[2]:
                os.write(terminal, answers[answered][1].encode() + b"\n")
                shown, answered = shown + b"\n", answered + 1
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode(errors="replace")


def test_the_command_line_asks_for_the_new_password(box, tmp_path):
    box.realm.kadmin("modprinc +needchange -policy strict bob")
    old, new = box.passwords["bob"], "quite-Another-1-bob"
    argv = [sys.executable, "-m", "hipercow_slurm", "login", "--username", "bob"]
    argv += ["--url", box.url.replace("127.0.0.1", "localhost"), "--ca", str(box.certificate.certificate)]
    answers = [("Password of bob", old), ("New password", "short"), ("same again", "short")]
    answers += [("New password", new), ("same again", new)]
    status, shown = on_a_terminal(argv, {**os.environ, "HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path)}, answers)
    assert status == 0 and "logged in" in shown, shown
    assert "too short" in shown.lower() and new not in shown and old not in shown, shown
    box.passwords["bob"] = new
    assert box.login("bob")


# What protects the exchange


@pytest.mark.parametrize("fast", ["try", "require", "off"])
def test_password_checks_are_armoured(box, fast, monkeypatch):
    """Would have caught: a login that goes bare to a KDC which offers FAST. libkrb5's own trace tells."""
    trace = box.dir / f"trace-{fast}"
    trace.touch()
    trace.chmod(0o666)
    monkeypatch.setenv("KRB5_TRACE", str(trace))  # of the API's process, which configured() starts anew
    with box.configured(fast=fast):
        assert box.login("bob")
    said = trace.read_text()
    assert "bob@REALM.TEST" in said and ("Preauth module encrypted_challenge " in said) == (fast != "off"), said[-3000:]


def test_a_kdc_with_new_keys_gets_new_armour(box):
    """The TGS key is changed and the old one is gone: our armour is worthless, which no user must notice."""
    assert box.login("bob")
    box.realm.kadmin("cpw -randkey krbtgt/REALM.TEST@REALM.TEST")
    box.realm.restart()
    assert box.login("bob")["principal"] == "bob@REALM.TEST", box.log()
