"""Our TLS certificate as Negotiate clients name it: the channel binding tls-server-end-point (RFC 5929 section 4)."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from hipercow_slurm.errors import ConfigError

_PREFIX = b"tls-server-end-point:"


class EndPoint:
    """The binding's application data; None for a certificate whose signature has no hash of its own (Ed25519).

    Raises:
        ConfigError: the file has no certificate.
    """

    def __init__(self, certificate: str) -> None:
        self._path = Path(certificate)
        self.data: bytes | None = None
        self.load()

    def load(self) -> None:
        """Read the file again, as the listener did."""
        try:
            self.data = binding_of(x509.load_pem_x509_certificate(self._path.read_bytes()))
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot use the certificate {self._path}: {error}") from error


def binding_of(certificate: x509.Certificate) -> bytes | None:
    """Its hash, by the hash of its signature, SHA-256 instead of MD5 and SHA-1."""
    algorithm = certificate.signature_hash_algorithm
    if algorithm is None:
        return None
    if isinstance(algorithm, hashes.MD5 | hashes.SHA1):
        algorithm = hashes.SHA256()
    return _PREFIX + certificate.fingerprint(algorithm)
