"""The signer's client: a Slurm token for the owner of a ticket, and for nobody else.

Service tickets for the signer are kept as long as they last, so that a token costs one visit to the KDC per TGT.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NoReturn

from hipercow_slurm.errors import CredentialError, Error, UnavailableError
from hipercow_slurm.krb5.auth import Initiator, ServiceTicket, service_ticket
from hipercow_slurm.signer import messages
from hipercow_slurm.values import KrbCred

THREADS = 8  # for what may wait for a KDC
KEPT = 2048  # service tickets
RESTART_S = 3.0  # for as long a signer that takes no connections is tried
AGAIN_S = 0.1
MARGIN_S = 5  # a ticket this close to its end is not used any more


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Token:
    """A Slurm token for ``localname`` until ``exp`` (seconds since 1970)."""

    localname: str
    uid: int
    token: str
    exp: int

    def __repr__(self) -> str:
        return f"<Token {self.localname} exp={self.exp}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Token is never pickled")


class SignerClient:
    """Asks the signer at ``socket``, whose principal is ``service``.

    Args:
        timeout_s: for one whole call, the KDC included.
    """

    def __init__(self, socket: str, service: str, *, timeout_s: float = 5.0) -> None:
        self._socket = socket
        self._service = service
        self._timeout_s = timeout_s
        self._threads = ThreadPoolExecutor(THREADS, "signer-client")
        self._tickets: dict[bytes, ServiceTicket] = {}

    async def token(self, cred: KrbCred) -> Token:
        """A token for the client of ``cred``, which must hold a TGT.

        Raises:
            AccessError: the signer signs nothing for this user: ``no-localname``, ``no-such-account``,
                ``uid-too-low``, ``account-denied``; or not for this process: ``peer-denied``.
            CredentialError: the ticket is expired or no good.
            UnavailableError: ``signer-unreachable``, ``signer-busy``, ``signer-slow``, ``kdc-unreachable``.
            ProtocolError: what answered is not the signer.
        """
        # The TGT's digest, not the principal: a new login must never be served with an older login's ticket.
        tgt = hashlib.sha256(cred.der).digest()
        try:
            async with asyncio.timeout(self._timeout_s):
                kept = self._kept(tgt)
                try:
                    return await self._ask(kept or await self._fetch(tgt, cred))
                except CredentialError:
                    if kept is None:
                        raise
                # The ticket was kept; the signer may have got a new key since. A fresh one settles it.
                return await self._ask(await self._fetch(tgt, cred))
        except TimeoutError:
            raise self._unreachable(f"no answer within {self._timeout_s:g} s") from None

    def close(self) -> None:
        """Forget the tickets and let the threads end."""
        self._tickets.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _kept(self, tgt: bytes) -> ServiceTicket | None:
        kept = self._tickets.get(tgt)
        return kept if kept is not None and kept.endtime > time.time() + MARGIN_S else None

    async def _fetch(self, tgt: bytes, cred: KrbCred) -> ServiceTicket:
        loop = asyncio.get_running_loop()
        fresh = await loop.run_in_executor(self._threads, service_ticket, cred, self._service)
        self._tickets.pop(tgt, None)
        while len(self._tickets) >= KEPT:
            self._tickets.pop(next(iter(self._tickets)))  # the oldest
        self._tickets[tgt] = fresh
        return fresh

    async def _ask(self, ticket: ServiceTicket) -> Token:
        # All of this is computing, some tenths of a millisecond, as the ticket is there already.
        with Initiator(None, self._service, local=None, remote=None, service_ticket=ticket) as initiator:
            ap_rep, sealed = messages.read_reply(await self._exchange(initiator.ap_req()))
            initiator.ap_rep(ap_rep)
            signed = messages.read_signed(initiator.unseal(sealed))
        return Token(signed.localname, signed.uid, signed.token, signed.exp)

    async def _exchange(self, ap_req: bytes) -> bytes:
        """One request and its reply; the caller's deadline covers it."""
        reader, writer = await self._connect()
        try:
            writer.write(messages.frame(ap_req))
            await writer.drain()
            header = await reader.readexactly(messages.HEADER.size)
            return await reader.readexactly(messages.length_of(header, messages.REPLY_LIMIT))
        except (OSError, asyncio.IncompleteReadError) as error:
            raise self._unreachable("it hung up") from error
        finally:
            writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection; a signer that is being restarted, with a new key say, is waited for."""
        end = time.monotonic() + RESTART_S
        while True:
            try:
                return await asyncio.open_unix_connection(self._socket, limit=messages.REPLY_LIMIT)
            except OSError as error:
                if time.monotonic() > end:
                    raise self._unreachable(error.strerror or type(error).__name__) from error
            await asyncio.sleep(AGAIN_S)

    def _unreachable(self, why: str) -> Error:
        """Users read this; where the signer's socket is, is not their business."""
        return UnavailableError(f"the signer of Slurm tokens cannot be reached: {why}", code="signer-unreachable")
