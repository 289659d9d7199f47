"""What operators rely on: several processes on one database, readiness, numbers, certificates, a true description."""

import base64
import json
import os
import re
import signal
import sqlite3
import ssl
import time
import urllib.error
import urllib.request

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from api_box import ApiBox
from api_parts import make_certificate
from hipercow_slurm.api import app, sealing
from hipercow_slurm.errors import InternalError

pytestmark = pytest.mark.kdc


@pytest.fixture(scope="module")
def box():
    with ApiBox() as box:
        yield box


@pytest.fixture(scope="module")
def second(box):
    """Another process on the same database; a client for its address."""
    box.start("api-2")
    with box.client() as client:
        client.base_url = f"https://127.0.0.1:{box.other_port}"
        yield client


def bearer(made):
    return {"Authorization": f"Bearer {made['token']}"}


# Sessions


def test_a_session_works_in_every_process_and_its_end_reaches_them_within_two_seconds(box, second):
    made = box.login("alice")
    assert second.get("/v1/ticket", headers=bearer(made)).json()["session"] == made["ticket"]
    with box.client(made["token"]) as first:
        assert first.delete("/v1/sessions/current").status_code == 204
        assert first.get("/v1/ticket").status_code == 401
    ended = time.monotonic()
    while second.get("/v1/ticket", headers=bearer(made)).status_code == 200:
        assert time.monotonic() - ended < 2.5, "a revoked session lives on in another process"
        time.sleep(0.1)


def test_a_ticket_replaced_in_one_process_is_the_sessions_in_the_other(box, second):
    box.realm.kadmin("modprinc -maxrenewlife 1h bob")
    made = box.login("bob")
    box.realm.kadmin("modprinc -maxrenewlife 7d bob")
    assert second.get("/v1/ticket", headers=bearer(made)).json()["session"] == made["ticket"]
    box.realm.kinit("bob", box.passwords["bob"], f"FILE:{box.dir}/cc-new", "-f", "-r", "2d")
    with box.client(made["token"]) as first:
        data = (box.dir / "cc-new").read_bytes()
        put = first.put("/v1/ticket", content=data, headers={"Content-Type": "application/octet-stream"})
        assert put.status_code == 200, put.text
    time.sleep(2.1)
    there = second.get("/v1/ticket", headers=bearer(made)).json()["session"]
    assert there == put.json()["session"] != made["ticket"]


def test_a_session_ends_with_its_ticket(box):
    """Expiry: the ticket lives three seconds and cannot be renewed for longer."""
    box.realm.kadmin("addprinc -pw x-Brief-1 -maxlife 3s -maxrenewlife 3s brief", "cpw -pw x-Brief-1 bob")
    box.realm.kadmin("modprinc -maxlife 3s -maxrenewlife 3s bob")
    try:
        with box.client() as client:
            made = client.post("/v1/sessions", json={"username": "bob", "password": "x-Brief-1"}).json()
            assert client.get("/v1/ticket", headers=bearer(made)).status_code == 200
            time.sleep(3.2)
            over = client.get("/v1/ticket", headers=bearer(made))
    finally:
        box.realm.kadmin("modprinc -maxlife 10h -maxrenewlife 7d bob", f'cpw -pw "{box.passwords["bob"]}" bob')
    assert (over.status_code, over.json()["code"]) == (401, "session-expired"), over.text
    with sqlite3.connect(f"file:{box.dir}/state/api.sqlite?mode=ro", uri=True) as database:
        rows = database.execute("SELECT 1 FROM session WHERE session_id = ?", (made["session_id"],)).fetchall()
    assert not rows, "its row is still there"


def test_a_session_ends_after_its_longest_life_though_its_ticket_is_good(box):
    """Would have caught: [api] session_max_s that nothing reads; and "the ticket has expired" where it has not."""
    with box.configured(session_max_s=3):
        made = box.login("alice")
        with box.client(made["token"]) as client:
            (row,) = (row for row in client.get("/v1/sessions").json()["sessions"] if row["current"])
            assert made["expires_at"] == row["expires_at"] < made["ticket"]["valid_until"]
            time.sleep(3.2)
            over, later = client.get("/v1/ticket"), client.get("/v1/ticket")
        with box.as_user("alice") as client:
            left = [row["session_id"] for row in client.get("/v1/sessions").json()["sessions"]]
    assert (over.status_code, over.json()["code"]) == (401, "session-expired"), over.text
    assert "ticket" not in over.json()["detail"], over.text
    assert later.status_code == 401 and made["session_id"] not in left


def test_everything_in_a_stolen_database_used_as_a_key_opens_nothing(box):
    made = box.login("alice")
    other = box.login("bob")
    with sqlite3.connect(f"file:{box.dir}/state/api.sqlite?mode=ro", uri=True) as stolen:
        row = stolen.execute(
            "SELECT token_hash, sealed, principal FROM session WHERE session_id = ?", (made["session_id"],)
        ).fetchone()
    token_hash, sealed, principal = row
    guesses = [token_hash, sealed[:32], sealed[-32:], made["session_id"].encode().ljust(32), bytes(32)]
    for guess in guesses:
        spelled = base64.urlsafe_b64encode(guess).rstrip(b"=").decode()
        with box.client(spelled) as client:
            assert client.get("/v1/ticket").status_code == 401, "something in the database logs in"
        # The plain derivation is written out here: a service that seals under another one is attacked with this one.
        plain = HKDF(algorithm=SHA256(), length=32, salt=made["session_id"].encode(), info=sealing._INFO)
        for key in (guess, sealing.derive_key(guess, made["session_id"]), plain.derive(guess)):
            with pytest.raises(InternalError):
                sealing.unseal(key, sealed, session_id=made["session_id"], principal=principal)
    # bob's own token does not open alice's ticket either, and hers opens it: the test looks at the right bytes
    bobs = sealing.derive_key(sealing.token_bits(other["token"]), made["session_id"])
    with pytest.raises(InternalError):
        sealing.unseal(bobs, sealed, session_id=made["session_id"], principal=principal)
    hers = sealing.derive_key(sealing.token_bits(made["token"]), made["session_id"])
    assert b"krbtgt" in sealing.unseal(hers, sealed, session_id=made["session_id"], principal=principal)


# Health, readiness, numbers


def test_health_gives_reasons_and_readiness_is_about_this_process(box):
    with box.client() as client:
        assert client.get("/v1/ready").json() == {"ready": True, "reasons": {}}
        box.realm.stop()
        time.sleep(5.1)  # an answer is kept for five seconds
        try:
            degraded = client.get("/v1/health").json()
            ready = client.get("/v1/ready")
        finally:
            box.realm.start()
        assert degraded["checks"]["kdc"] == "kdc-unreachable"
        assert degraded["reasons"] == {"kdc": "the KDC does not answer"}
        assert ready.status_code == 200, "another process would not reach the KDC either"
        keytab = box.dir / "api.keytab"
        keytab.rename(box.dir / "away.keytab")
        time.sleep(5.1)
        try:
            ready = client.get("/v1/ready")
        finally:
            (box.dir / "away.keytab").rename(keytab)
    assert ready.status_code == 503 and list(ready.json()["reasons"]) == ["keytab"], ready.text
    assert str(box.dir) not in ready.text


def scrape(box, path="/metrics"):
    """What the operator's listener says; /health is 503 for some seconds after a test that broke something."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{box.metrics_port}{path}", timeout=10) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        assert path == "/health" and error.code == 503, error
        return error.read().decode()


def test_the_numbers(box):
    def number(name, **labels):
        inside = ",".join(f'{key}="{value}"' for key, value in labels.items())
        found = re.search(rf"^{re.escape(f'hipercow_slurm_api_{name}{{{inside}}}')} (\S+)$", scrape(box), re.M)
        return float(found[1]) if found else 0.0

    counted = {"method": "GET", "route": "/v1/jobs/{job_id:str}", "status": "401"}
    before = number("requests_total", **counted), number("logins_total", result="accepted", way="password")
    with box.client() as client:
        client.get("/v1/jobs/77")
        client.get("/v1/jobs/78")
        client.get("/v1/secret-of-alice")
    box.login("alice")
    assert number("requests_total", **counted) == before[0] + 2
    assert number("logins_total", result="accepted", way="password") == before[1] + 1
    text = scrape(box)
    assert re.search(r"^hipercow_slurm_api_sessions [1-9]", text, re.M)
    assert "secret-of-alice" not in text and "alice" not in text, "names are nobody's business"
    health = json.loads(scrape(box, "/health"))
    assert set(health["checks"]) >= {"kdc", "signer", "cache", "slurm", "database"}


# The certificate


def peer(box):
    """The certificate that a new connection is shown."""
    return ssl.get_server_certificate(("127.0.0.1", box.port), timeout=5)


def test_a_new_certificate_on_hup_without_dropping_a_connection(box):
    old = peer(box)
    pid = api_pid(box)
    with box.client() as client:
        assert client.get("/v1/openapi.json").status_code == 200
        certificate, key = (box.dir / name for name in ("tls.pem", "tls.key"))
        kept = certificate.read_bytes(), key.read_bytes()
        key.write_bytes(b"not a key")
        os.kill(pid, signal.SIGHUP)
        wait_for_log(box, "api.certificate-kept")
        assert peer(box) == old, "a bad key must change nothing"
        made = make_certificate(box.dir)
        os.kill(pid, signal.SIGHUP)
        wait_for_log(box, "api.certificate-reloaded")
        assert peer(box).encode() == made.certificate.read_bytes() != kept[0]
        stream = client._transport._pool.connections  # the same connection, not a new one
        assert client.get("/v1/openapi.json").status_code == 200 and len(stream) == 1
        assert "HTTP/1.1" in repr(stream[0]) and "Request Count: 2" in repr(stream[0]), stream
    box.certificate = made
    assert box.login("alice")


def api_pid(box):
    """Of the program itself: unshare and setpriv exec, so it is the one that was started."""
    return box.pid("api")


def wait_for_log(box, event):
    end = time.monotonic() + 5
    while event not in box.log():
        assert time.monotonic() < end, box.log()[-1000:]
        time.sleep(0.02)


# The description


def test_the_description_has_every_route_and_method(box):
    with box.client() as client:
        described = client.get("/v1/openapi.json").json()
    served = {
        (path.replace(":str}", "}"), method.lower())
        for path, methods in app.ROUTES.items()
        for method in methods
        if path.startswith("/v1/")
    }
    found = {(path, method) for path, ops in described["paths"].items() for method in ops if method != "parameters"}
    assert found == served, found ^ served
    for path, operations in described["paths"].items():
        for method in operations.keys() - {"parameters"}:
            assert len(operations[method]["responses"]) >= 2, f"{method} {path} is described without its success"
    for references in re.findall(r'"#/components/schemas/(\w+)"', json.dumps(described)):
        assert references in described["components"]["schemas"], references
    password = described["components"]["schemas"]["LoginBody"]["properties"]["password"]
    assert password["type"] == "string" and password["maxLength"] == 512
