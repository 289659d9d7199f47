"""Our own programs in the sandbox: their table, configuration files, keys and certificates."""

from __future__ import annotations

import secrets
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hipercow_slurm.testing.sandbox import accounting, hosts, layout, slurm
from hipercow_slurm.testing.sandbox.hosts import Tree
from hipercow_slurm.testing.sandbox.layout import API, AUKSD, HEAD, REALM, SIGNER, Account, Options, fqdn


@dataclass(frozen=True, slots=True)
class OurProgram:
    """One of our programs: who it is and how it shows that it is ready (a unix socket, or a TCP port)."""

    name: str
    user: str
    needs: tuple[str, ...]
    socket: str = ""
    port: int = 0
    on_nodes: bool = False

    @property
    def config(self) -> str:
        """Its configuration file."""
        return f"{layout.CONFIG}/{self.name}.toml"


PROGRAMS = (
    OurProgram(
        "signer",
        SIGNER.name,
        ("realm", "keys"),
        socket=layout.SIGNER_SOCKET,
    ),
    OurProgram("auksd", AUKSD.name, ("kdc", "keys"), port=layout.AUKSD_PORT),
    OurProgram("api", API.name, ("kdc", "signer", "auksd", "slurmrestd"), port=layout.API_PORT),
    OurProgram(
        "agent",
        "root",
        ("kdc",),
        socket=layout.AGENT_SOCKET,
        on_nodes=True,
    ),
)


_CACHE = f"""[cache]
servers = [
    {{ host = "{fqdn(layout.CACHE)}", port = {layout.AUKSD_PORT}, principal = "auks/{fqdn(HEAD)}@{REALM}" }},
]
"""

# In place of the realm that people's principals are in.
_PEOPLE = "PEOPLE-REALM"

_API = f"""[api]
listen = "0.0.0.0:{layout.API_PORT}"
certificate = "{layout.CONFIG}/api.crt"
key = "{layout.CONFIG}/api.key"
realm = "{_PEOPLE}"
service = "HTTP/{fqdn(HEAD)}@{REALM}"
processes = 2

[audit]
path = "/var/lib/hipercow-slurm/api/audit.log"

[signer]
service = "slurm-signer/{fqdn(HEAD)}@{REALM}"

{_CACHE}
[slurm]
min_job_age_s = {slurm.MIN_JOB_AGE_S}

[hpcpack]
cluster = "sandbox"
anonymous = true

[[files]]
prefix = "/home"
server = "{fqdn(layout.FILES)}"
export = "/home"

[[paths]]
share = "{layout.SHARE}"
path = "{layout.SHARE_ON_NODES}"

[[paths]]
share = "//{fqdn(layout.FILES)}/data"
path = "/data"

[hipercow]
python = {{ "{sys.version_info.major}.{sys.version_info.minor}" = "{layout.PYTHON}" }}
# Debian 12's R, where somebody installed it, and a library that a test may fill.
r = {{ "4.2.2" = "/usr/bin/Rscript" }}
r_libs = "{layout.SHARE_ON_NODES}/r-library"
"""

_SIGNER = f"""\
[signer]
service = "slurm-signer/{fqdn(HEAD)}@{REALM}"
"""

_AUKSD = f"""\
[auksd]
listen = "{{address}}:{layout.AUKSD_PORT}"
principal = "auks/{fqdn(HEAD)}@{REALM}"
keytab = "{layout.CONFIG}/auksd.keytab"
acl = "{layout.CONFIG}/auksd.acl"
store = "/var/lib/hipercow-slurm/auksd/credentials.db"
key_file = "{layout.CONFIG}/auksd.key"

[nodes]
realm = "{REALM}"
domains = ["{layout.DOMAIN}"]

[audit]
path = "/var/lib/hipercow-slurm/auksd/audit.log"
"""

_ACL_RULE = "rule {{ principal = {principal} ; host = * ; role = {role} ; }}\n"

_AGENT = f"""[agent]
sweep_s = 10

{_CACHE}"""

_CLIENT = f"""url = "{layout.API_URL}"
ca = "{layout.CONFIG}/ca.pem"
"""


def write_config(tree: Tree, options: Options) -> None:
    """The TOML files of our programs, and the folders of their state; packages bring their own."""
    if options.packages:
        return
    head = tree.host(HEAD)
    auksd = _AUKSD.format(address=options.addresses[layout.CACHE])
    api = _API.replace(_PEOPLE, options.people_realm)
    if options.accounting:
        age = f"min_job_age_s = {slurm.MIN_JOB_AGE_S}"
        api = api.replace(age, f"accounting = true\nmin_job_age_s = {accounting.MIN_JOB_AGE_S}")
    _write(tree.etc(HEAD) / "hipercow-slurm", {"api": api, "signer": _SIGNER, "auksd": auksd})
    (tree.etc(HEAD) / "hipercow-slurm/auksd.acl").write_text(_acl(options))
    for account in (API, AUKSD, SIGNER):
        state = head / "var/lib/hipercow-slurm" / account.name.removeprefix("hcs-")
        state.mkdir(parents=True, mode=0o700)
        hosts.chown(state, account)
    for node in options.compute:
        (tree.var(node) / "lib/hipercow-slurm/agent").mkdir(parents=True, mode=0o700)
        _write(tree.etc(node) / "hipercow-slurm", {"agent": _AGENT})
    _write(tree.etc(layout.LOGIN) / "hipercow-slurm", {"agent": _AGENT, "client": _CLIENT})
    _write(tree.etc(layout.LAPTOP) / "hipercow-slurm", {"client": _CLIENT})


def _acl(options: Options) -> str:
    """The operator on the head looks, nodes fetch tickets of their jobs' users; everyone else has only their own."""
    domain, realm = layout.DOMAIN.replace(".", "[.]"), REALM.replace(".", "[.]")
    rules = (
        (f"^host/{HEAD}[.]{domain}@{realm}$", "admin"),
        (f"^host/({'|'.join(options.compute)})[.]{domain}@{realm}$", "node"),
        (f"^[a-z]+@{options.people_realm.replace('.', '[.]')}$", "user"),
    )
    return "".join(_ACL_RULE.format(principal=principal, role=role) for principal, role in rules)


def _write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / f"{name}.toml").write_text(text)


def make_keys(tree: Tree, options: Options) -> None:
    """The signer's keys and Slurm's public half of them, the cache's key, the API's certificate."""
    from hipercow_slurm.signer import keys

    head = tree.host(HEAD)
    keys.generate(head / "var/lib/hipercow-slurm/signer/key.pem", tree.etc(HEAD) / "slurm/jwks.json")
    _private(tree.etc(HEAD) / "hipercow-slurm/auksd.key", f"{secrets.token_hex(32)}\n".encode(), AUKSD)
    _certificates(tree)


def _private(path: Path, content: bytes, owner: Account) -> None:
    """A file for one account alone."""
    path.touch(mode=0o600)
    path.write_bytes(content)
    hosts.chown(path, owner)


def _certificates(tree: Tree) -> None:
    """A certificate authority for this sandbox alone, known to laptop and login node, and the API's certificate."""
    authority, authority_key = certificate("hipercow-slurm sandbox", None)
    served, key = certificate(fqdn(HEAD), (authority, authority_key))
    etc = tree.etc(HEAD) / "hipercow-slurm"
    (etc / "api.crt").write_bytes(served.public_bytes(serialization.Encoding.PEM))
    private = etc / "api.key"
    private.touch(mode=0o600)
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    hosts.chown(private, API)
    for host in (HEAD, layout.LOGIN, layout.LAPTOP):
        (tree.etc(host) / "hipercow-slurm/ca.pem").write_bytes(authority.public_bytes(serialization.Encoding.PEM))


Signed = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def certificate(name: str, issuer: Signed | None) -> Signed:
    """A certificate for the DNS name ``name`` from ``issuer``, or a certificate authority of its own; a week long."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer_name, signer_key = (issuer[0].subject, issuer[1]) if issuer else (subject, key)
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=7))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer_key.public_key()), critical=False)
    )
    if issuer is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    return builder.sign(signer_key, hashes.SHA256()), key
