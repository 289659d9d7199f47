"""What both ends of an AP exchange share, and KRB-PRIV between them (RFC 4120 sections 3.5, 5.7).

Rule 1: after an error the object is finished, and a call out of order is one: libkrb5 crashes on some (KRB-PRIV
without a key), so each step begins by looking at the state and setting ``FAILED``, and ends by setting the next one;
each does so by itself, because there are five to a connection. Rule 2: what a peer sent is checked for size and outer
shape before libkrb5 sees it.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Self

from hipercow_slurm.errors import InternalError
from hipercow_slurm.krb5 import calls, codes
from hipercow_slurm.krb5.der import check_message
from hipercow_slurm.krb5.lib import NULL, any_context, check, context, error_of, ffi, lib

# The frame layer holds peers to the limits of the protocol; this one is only libkrb5's own int.
MAX_PRIV = 2**31 - 1

# In NAT mode auksd and its clients put this in place of both addresses, and KRB-PRIV compares them.
DUMMY = b"dummy"

KRB_PRIV = 21
_BAD_ADDRESS = codes.NUMBERS["KRB5KRB_AP_ERR_BADADDR"]
_ADDED = 512  # octets of a KRB-PRIV beside its content, at most
_SMALL = calls.OUT


class State(enum.Enum):
    NEW = "not authenticated"
    SENT = "waiting for the AP-REP"
    JOINED = "authenticated"
    FAILED = "finished by an error"
    CLOSED = "closed"


# Looked up at each step of each message; as attributes of the enum they would be looked up twice.
NEW, SENT, JOINED, FAILED, CLOSED = State


def _free_auth(auth: Any) -> None:
    lib.krb5_auth_con_free(any_context(), auth)


class Peer:
    """What both ends share: an auth context, its addresses, sealing and unsealing."""

    _FLAGS = lib.KRB5_AUTH_CONTEXT_DO_SEQUENCE

    def __init__(self, local: bytes | None, remote: bytes | None) -> None:
        self._real = local is not None and remote is not None
        self._local, self._remote = local, remote
        self._auth = NULL
        self._state = NEW
        self._proved = False

    def _addresses(self) -> tuple[Any, Any, Any]:
        """Ours and the peer's for an auth context, and what must be kept meanwhile.

        Set before the AP exchange: a ticket that carries addresses is compared with the remote one.
        """
        if self._local is None or self._remote is None:
            return NULL, NULL, None
        return calls.addresses(self._local, self._remote)

    def _own(self, auth: Any) -> None:
        """Take over a new auth context."""
        self._auth = ffi.gc(auth, _free_auth)

    def seal(self, data: bytes) -> bytes:
        """A KRB-PRIV around ``data``: with sequence number and addresses, without timestamp."""
        if self._state is not JOINED:
            raise self._out_of_order()
        self._state = FAILED
        scratch, length = calls.own.scratch, len(data)
        out, size = (scratch.out, _SMALL) if length + _ADDED <= _SMALL else scratch.room(length + _ADDED)
        code = calls.seal(any_context(), self._auth, data, length, out, size, scratch.made)
        if code:
            raise error_of(code, "seal a message", codes.PRIV)
        made = scratch.made[0]
        if made > size:
            raise InternalError(f"a message of {length} bytes became one of {made}")
        self._state = JOINED
        sealed: bytes = ffi.unpack(out, made)
        return sealed

    def seal_in_pieces(self, length: int, content: Iterable[bytes]) -> tuple[int, Iterator[bytes | bytearray]]:
        """As ``seal``, for tens of megabytes: the content comes in pieces, and so does the KRB-PRIV.

        Args:
            length: octets of the content in all.

        Returns:
            length of the KRB-PRIV, and its pieces: all of them must be sent before anything else is sealed.
        """
        from hipercow_slurm.krb5 import bulk  # the cache's only: whoever runs in an srun does not load its ciphers

        if self._state is not JOINED:
            raise self._out_of_order()
        self._state = FAILED
        assert self._local is not None and self._remote is not None, "there are some from _join on"
        sealed = bulk.seal(
            self._auth, length, content, (calls.ADDRTYPE_INET, self._local), (calls.ADDRTYPE_INET, self._remote)
        )
        self._state = JOINED
        self.seal(b"\0")  # thrown away: it steps the sequence number
        return sealed

    def unseal(self, data: bytes) -> bytes:
        """The content of a KRB-PRIV from the peer, which must be its next one in sequence.

        Raises:
            ProtocolError: ``wire-malformed`` or ``seal-broken``: not a KRB-PRIV, another key, changed, repeated, out
                of order or from another address.
        """
        if self._state is not JOINED:
            raise self._out_of_order()
        self._state = FAILED
        check_message(data, KRB_PRIV, "KRB-PRIV", limit=MAX_PRIV)
        scratch, length = calls.own.scratch, len(data)
        out, size = (scratch.out, _SMALL) if length <= _SMALL else scratch.room(length)  # what is in it is shorter
        code = calls.unseal(any_context(), self._auth, data, length, out, size, scratch.made)
        if code == _BAD_ADDRESS and self._try_dummy():
            # libkrb5 compares addresses before it steps the sequence number, so asking again is safe.
            code = calls.unseal(any_context(), self._auth, data, length, out, size, scratch.made)
        if code:
            raise error_of(code, "unseal a message", codes.PRIV)
        self._state, self._proved = JOINED, True
        content: bytes = ffi.unpack(out, scratch.made[0])
        return content

    def close(self) -> None:
        """Free what libkrb5 holds; harmless twice."""
        self._state = CLOSED
        auth, self._auth = self._auth, NULL
        if auth is not NULL:
            ffi.release(auth)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _out_of_order(self) -> InternalError:
        return InternalError(f"an {type(self).__name__} that is {self._state.value} was used out of order")

    def _join(self) -> None:
        """The AP exchange is done. Ends without addresses write, as KRB-PRIV must carry some, those of NAT mode."""
        if not self._real:
            self._use_dummy()
        self._state = JOINED

    def _try_dummy(self) -> bool:
        """Change to NAT mode, if this end may find that out from the peer's message."""
        return False

    def _use_dummy(self) -> None:
        self._real = True
        self._set_addresses(DUMMY, DUMMY)

    def _set_addresses(self, local: bytes, remote: bytes) -> None:
        own, peer, _keep = calls.addresses(local, remote)
        code = lib.krb5_auth_con_setaddrs(context(), self._auth, own, peer)
        check(code, "set up authentication", codes.SETUP)
        self._local, self._remote = local, remote
