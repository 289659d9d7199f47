"""What a login rests on: DES and RC4 are refused clearly, unless the site allows them; and Negotiate's TLS channel."""

import base64
import hashlib
import os
import ssl
import subprocess

import gssapi
import pytest
from gssapi.raw.chan_bindings import ChannelBindings

from api_box import API_UID, ApiBox
from api_parts import make_certificate

pytestmark = [pytest.mark.kdc, pytest.mark.xdist_group("api-strength")]  # the last one breaks the KDC

RC4 = "arcfour-hmac"
OCTETS = {"Content-Type": "application/octet-stream"}


@pytest.fixture(scope="module")
def box():
    # As a site has it that still serves old clients: since CVE-2025-3576 MIT's KDC gives no RC4 sessions unasked.
    with ApiBox(kdc_conf_more="[libdefaults]\n    allow_rc4 = true\n") as box:
        for name, types in {"bob": RC4, "carol": "des3-cbc-sha1", "dave": f"{RC4}:normal,aes256-cts"}.items():
            box.realm.kadmin(f"cpw -e {types}:normal -pw {box.passwords[name]} {name}")
        for service in ("krbtgt/REALM.TEST", "HTTP/localhost"):
            box.realm.kadmin(f"setstr {service} session_enctypes aes256-cts,{RC4}")
        yield box


@pytest.fixture
def attempt(box):
    def ask(name):
        with box.client() as client:
            return client.post("/v1/sessions", json={"username": name, "password": box.passwords[name]})

    return ask


def weak_ticket(box, name):
    """The ticket of a laptop whose krb5.conf knows nothing but RC4, and that krb5.conf."""
    conf, path = box.dir / "krb5-rc4.conf", box.dir / f"cc-{name}"
    text = box.realm.krb5_conf.read_text()
    conf.write_text(text.replace("[libdefaults]\n", f"[libdefaults]\n    permitted_enctypes = {RC4}\n"))
    argv = ["kinit", "-f", "-c", f"FILE:{path}", name]
    env = {**os.environ, "KRB5_CONFIG": str(conf)}
    subprocess.run(argv, input=box.passwords[name] + "\n", env=env, text=True, check=True, capture_output=True)
    return path, conf


@pytest.mark.parametrize(("name", "type"), [("bob", RC4), ("carol", "des3-cbc-sha1")])
def test_an_account_with_weak_keys_only_is_told_so(box, attempt, name, type):
    """Would have caught: a login over RC4 like any other; and libkrb5's "generic preauthentication failure"."""
    answer = attempt(name)
    assert (answer.status_code, answer.json()["code"]) == (403, "weak-encryption"), answer.text
    assert type in answer.json()["detail"] and "change the password" in answer.json()["hint"]
    assert "code=weak-encryption" in box.log()


def test_an_account_without_preauthentication_too(box, attempt):
    """There the KDC refuses at once, as Active Directory does: no encryption type in common."""
    box.realm.kadmin("modprinc -requires_preauth bob")
    try:
        assert attempt("bob").json()["code"] == "weak-encryption"
    finally:
        box.realm.kadmin("modprinc +requires_preauth bob")


def test_who_has_a_strong_key_beside_it_logs_in_with_that(box, attempt):
    assert attempt("dave").json()["code"] == "no-such-account", "dave has no account here, and was let in by the KDC"
    assert attempt("alice").status_code == 201


def test_an_uploaded_ticket_of_rc4_is_refused(box):
    path, _ = weak_ticket(box, "bob")
    with box.client() as client:
        answer = client.post("/v1/sessions", content=path.read_bytes(), headers=OCTETS)
    assert (answer.status_code, answer.json()["code"]) == (403, "weak-encryption"), answer.text


def test_negotiate_over_rc4_is_refused(box):
    """curl on a laptop that knows nothing but RC4."""
    path, conf = weak_ticket(box, "bob")
    argv = ["curl", "-sS", "--negotiate", "-u", ":", "--delegation", "always", "--cacert", str(box.dir / "tls.pem")]
    argv += ["-X", "POST", "-w", "\n%{http_code}", f"https://localhost:{box.port}/v1/sessions"]
    env = {**os.environ, "KRB5_CONFIG": str(conf), "KRB5CCNAME": f"FILE:{path}"}
    said = subprocess.run(argv, env=env, text=True, capture_output=True, timeout=60, check=True).stdout
    assert '"code":"weak-encryption"' in said and said.endswith("403"), said


def negotiate(box, saw):
    """A Negotiate login of alice's, bound to what she says she saw of the TLS channel."""
    with box.realm.activated(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("KRB5CCNAME", f"FILE:{box.dir}/cc-alice")
        context = gssapi.SecurityContext(
            name=gssapi.Name("HTTP@localhost", gssapi.NameType.hostbased_service),
            usage="initiate",
            flags=gssapi.RequirementFlag.mutual_authentication | gssapi.RequirementFlag.delegate_to_peer,
            channel_bindings=None if saw is None else ChannelBindings(application_data=saw),
        )
        header = {"Authorization": "Negotiate " + base64.b64encode(context.step()).decode()}
    with box.client() as client:
        return client.post("/v1/sessions", headers=header)


def end_point(pem):
    """RFC 5929 section 4.1, for a certificate signed with SHA-256."""
    der = ssl.PEM_cert_to_DER_cert(pem)
    return b"tls-server-end-point:" + hashlib.sha256(der).digest()


def test_a_token_for_another_tls_channel_is_refused(box, tmp_path):
    """Would have caught: a token that somebody in between took from alice, who saw another certificate than ours."""
    box.realm.kinit("alice", box.passwords["alice"], f"FILE:{box.dir}/cc-alice", "-f")
    ours, others = (made.certificate.read_text() for made in (box.certificate, make_certificate(tmp_path)))
    relayed = negotiate(box, end_point(others))
    assert (relayed.status_code, relayed.json()["code"]) == (403, "other-channel"), relayed.text
    assert negotiate(box, end_point(ours)).status_code == 201
    assert negotiate(box, None).status_code == 201, "a client that does not say (curl before 8.10)"


def test_a_new_certificate_is_the_channel_after_hup(box, tmp_path):
    """Would have caught: everybody refused after a certificate was renewed."""
    new = make_certificate(tmp_path)
    box.certificate.certificate.write_bytes(new.certificate.read_bytes())
    box.certificate.key.write_bytes(new.key.read_bytes())
    box.hang_up("api")
    assert negotiate(box, end_point(new.certificate.read_text())).status_code == 201


def test_a_site_may_allow_weak_types_and_require_the_channel(box, attempt):
    ours = box.certificate.certificate.read_text()
    with box.configured(channel_binding="require", weak_enctypes="allow"):
        assert attempt("bob").status_code == 201
        path, _ = weak_ticket(box, "bob")
        with box.client() as client:
            assert client.post("/v1/sessions", content=path.read_bytes(), headers=OCTETS).status_code == 201
        silent = negotiate(box, None)
        assert (silent.status_code, silent.json()["code"]) == (403, "other-channel"), silent.text
        assert negotiate(box, end_point(ours)).status_code == 201


def test_with_a_keytab_of_weak_keys_it_does_not_start(box):
    box.realm.add_service("HTTP/weak")
    box.realm.kadmin(f"cpw -e {RC4}:normal -randkey HTTP/weak")
    keytab, conf = box.dir / "weak.keytab", box.dir / "api-weak.toml"
    box.realm.keytab(keytab, "HTTP/weak")
    os.chown(keytab, API_UID, API_UID)
    text = (box.dir / "api.toml").read_text()
    for here, there in (("api.keytab", "weak.keytab"), ("HTTP/localhost", "HTTP/weak"), ("api.audit", "weak.audit")):
        text = text.replace(here, there)
    conf.write_text(text)
    done = subprocess.run(
        box.command("api-weak"), env={**os.environ, **box.realm.env}, capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 78 and RC4 in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_last_a_kdc_that_seals_its_tickets_with_rc4(box, attempt):
    """Whoever has one could work at the KDC's own key; the account's and the session's types are strong."""
    box.realm.kadmin(f"cpw -e {RC4}:normal -randkey krbtgt/REALM.TEST")
    box.realm.restart()
    answer = attempt("alice")
    assert (answer.status_code, answer.json()["code"]) == (403, "weak-encryption"), (answer.text, box.log()[-1500:])
