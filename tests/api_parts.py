"""Helpers for tests of the HTTP API: a certificate of one's own, and a service running inside the test's loop."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from starlette.types import ASGIApp

from hipercow_slurm.api import server
from hipercow_slurm.api.config import Api, Cache, CacheServer, Config, Limits, Signer
from hipercow_slurm.testing.ports import free_port


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate for localhost and 127.0.0.1."""

    certificate: Path
    key: Path

    def client(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.certificate))


def make_certificate(folder: Path) -> Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    made = Certificate(folder / "tls.pem", folder / "tls.key")
    made.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    made.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return made


def configuration(made: Certificate, folder: Path, *, limits: Limits | None = None, port: int | None = None) -> Config:
    """A configuration that points to nothing but the certificate."""
    return Config(
        api=Api(
            certificate=str(made.certificate),
            key=str(made.key),
            realm="REALM.TEST",
            service="HTTP/localhost",
            listen=f"127.0.0.1:{port or free_port()}",
            database=str(folder / "api.sqlite"),
            keytab=str(folder / "api.keytab"),
        ),
        signer=Signer(service="slurm-signer/localhost", socket=str(folder / "signer.sock")),
        cache=Cache(servers=[CacheServer(host="127.0.0.1", port=1, principal="auks/localhost")]),
        limits=limits or Limits(),
    )


@contextlib.asynccontextmanager
async def serving(app: ASGIApp, conf: Config) -> AsyncIterator[str]:
    """The application on its TLS port for the length of the block; the base URL."""
    stop, started = asyncio.Event(), asyncio.Event()
    tls = server.tls_context(conf.api.certificate, conf.api.key)
    task = asyncio.create_task(server.serve(app, conf, tls, stop, started))
    starting = asyncio.create_task(started.wait())
    await asyncio.wait({task, starting}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        starting.cancel()
        task.result()
    try:
        yield f"https://{conf.api.listen}"
    finally:
        stop.set()
        await asyncio.wait_for(task, 10)
