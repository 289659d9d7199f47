"""Certificates for PKINIT (RFC 4556): a CA, the KDC's and users', and what MIT's kdc.conf and kinit must be told."""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID, ObjectIdentifier

REALM = "REALM.TEST"
SAN_PRINCIPAL = ObjectIdentifier("1.3.6.1.5.2.2")  # id-pkinit-san
KDC_PURPOSE, USER_PURPOSE = ObjectIdentifier("1.3.6.1.5.2.3.5"), ObjectIdentifier("1.3.6.1.5.2.3.4")


class Pkinit:
    """A folder of PEM files; made before the realm starts."""

    def __init__(self, dir: Path) -> None:
        self.dir = dir
        self._ca_key = rsa.generate_private_key(65537, 2048)
        self._ca = self._certificate("CA", self._ca_key, None)
        self._write("ca", self._ca)
        self._make("kdc", _krb5_name("krbtgt", REALM), KDC_PURPOSE)

    @property
    def kdc_conf(self) -> str:
        """Sections of kdc.conf."""
        return (
            "[kdcdefaults]\n"
            f"    pkinit_identity = FILE:{self.dir}/kdc.pem,{self.dir}/kdc.key\n"
            f"    pkinit_anchors = FILE:{self.dir}/ca.pem\n"
        )

    def card(self, name: str) -> list[str]:
        """A certificate of the user's; options of kinit."""
        self._make(name, _krb5_name(name), USER_PURPOSE)
        return [
            *("-X", f"X509_user_identity=FILE:{self.dir}/{name}.pem,{self.dir}/{name}.key"),
            *("-X", f"X509_anchors=FILE:{self.dir}/ca.pem"),
        ]

    def _make(self, name: str, principal: bytes, purpose: ObjectIdentifier) -> None:
        key = rsa.generate_private_key(65537, 2048)
        self._write(name, self._certificate(name, key, (principal, purpose)))
        octets = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (self.dir / f"{name}.key").write_bytes(octets)

    def _write(self, name: str, certificate: x509.Certificate) -> None:
        (self.dir / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def _certificate(
        self, name: str, key: rsa.RSAPrivateKey, use: tuple[bytes, ObjectIdentifier] | None
    ) -> x509.Certificate:
        """Signed by the CA; ``use``: principal and purpose, None for the CA itself."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now, signs = datetime.datetime.now(datetime.UTC), use is None
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if signs else self._ca.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=signs, path_length=None), critical=True)
            .add_extension(_usage(signs=signs), critical=True)
        )
        if use is not None:
            principal = x509.OtherName(SAN_PRINCIPAL, use[0])
            made = made.add_extension(x509.SubjectAlternativeName([principal]), critical=False)
            made = made.add_extension(x509.ExtendedKeyUsage([use[1]]), critical=False)
        return made.sign(self._ca_key, hashes.SHA256())


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_encipherment=not signs,
        key_agreement=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        data_encipherment=False,
        encipher_only=False,
        decipher_only=False,
    )


def _krb5_name(*parts: str) -> bytes:
    """KRB5PrincipalName of RFC 4556 section 3.2.2, DER; short enough for lengths of one octet."""
    kind = 2 if len(parts) > 1 else 1
    strings = b"".join(_der(0x1B, part.encode()) for part in parts)
    name = _der(0x30, _der(0xA0, _der(2, bytes([kind]))) + _der(0xA1, _der(0x30, strings)))
    return _der(0x30, _der(0xA0, _der(0x1B, REALM.encode())) + _der(0xA1, name))


def _der(tag: int, content: bytes) -> bytes:
    assert len(content) < 128
    return bytes([tag, len(content)]) + content
