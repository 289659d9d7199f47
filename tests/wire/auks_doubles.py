"""The crypto object replaced by the identity with a mark in front, and ways to feed bytes."""

from collections.abc import Iterable, Iterator
from itertools import chain

from hipercow_slurm.errors import CredentialError, ProtocolError


class PlainAcceptor:
    """Accepts ``AP-REQ name``; seals by putting ``S:`` in front."""

    client = ""

    def ap_req(self, data: bytes) -> bytes:
        if not data.startswith(b"AP-REQ "):
            raise CredentialError("ticket expired", code="expired")
        self.client = data.removeprefix(b"AP-REQ ").decode("utf-8", "replace")
        return b"AP-REP"

    def krb_error(self, error: Exception) -> bytes:
        return b"KRB-ERROR " + str(error).encode()

    def seal(self, data: bytes) -> bytes:
        return b"S:" + data

    def seal_in_pieces(self, length: int, content: Iterable[bytes]) -> tuple[int, Iterator[bytes | bytearray]]:
        return length + 2, chain((b"S:",), content)

    def unseal(self, data: bytes) -> bytes:
        if not data.startswith(b"S:"):
            raise ProtocolError("cannot open", code="auth-failed")
        return data[2:]


class PlainInitiator(PlainAcceptor):
    def __init__(self, name: str = "alice@EX.ORG", request: bytes | None = None) -> None:
        self._request = f"AP-REQ {name}".encode() if request is None else request

    def ap_req(self) -> bytes:  # type: ignore[override]
        return self._request

    def ap_rep(self, data: bytes) -> None:
        if data != b"AP-REP":
            raise ProtocolError("wrong AP-REP", code="auth-failed")


def pieces(data: bytes, size: int | None) -> Iterable[bytes]:
    """``data`` whole, or in pieces of ``size`` bytes."""
    size = size or len(data) or 1
    return (data[at : at + size] for at in range(0, len(data), size))
