"""The user's Slurm token, signed on the strength of the user's ticket, kept for half its life, never shown.

The API cannot sign; it presents an AP-REQ made with the session's ticket, and only the holder of that ticket can
open the signer's answer. The token stays in this process and in the request to slurmrestd.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from hipercow_slurm import log
from hipercow_slurm.api.session import Session
from hipercow_slurm.errors import AccessError, Error
from hipercow_slurm.signer.client import SignerClient
from hipercow_slurm.slurm.rest import Identity

T = TypeVar("T")


class SlurmTokens:
    """One token per session at a time."""

    def __init__(self, signer: SignerClient) -> None:
        self._signer = signer

    async def of(self, session: Session) -> Identity:
        """Who the session is towards slurmrestd.

        Raises:
            AccessError: the signer refuses this user. CredentialError: the ticket is no good.
            UnavailableError: the signer or the KDC does not answer.
        """
        held = _held(session)
        if held is not None:
            return held
        async with session.identity_lock:
            if (held := _held(session)) is not None:  # somebody else has just fetched it
                return held
            signed = await self._signer.token(session.cred)
            if (signed.localname, signed.uid) != (session.localname, session.uid):
                raise AccessError(
                    f"the signer knows {session.principal} as another account than this service does",
                    code="principal-mismatch",
                )
            identity = Identity(signed.localname, signed.token)
            now = time.time()
            session.identity = (identity, now + (signed.exp - now) / 2)
            log.get().info("token.fetched", principal=session.principal, exp=signed.exp)
            return identity

    async def call(self, session: Session, act: Callable[[Identity], Awaitable[T]]) -> T:
        """``act`` as the session's user; once more with a fresh token if Slurm refused one that we had kept.

        A refused token did nothing (also for a submission), and a kept one may be of a key that was since changed.
        """
        identity = await self.of(session)
        kept_since = session.identity
        try:
            return await act(identity)
        except Error as error:
            if error.code != "slurm-token-refused":
                raise
            if session.identity is kept_since:
                session.identity = None
        return await act(await self.of(session))


def _held(session: Session) -> Identity | None:
    """What is kept for this session, if it is good for some time to come."""
    if session.identity is None or session.identity[1] <= time.time():
        return None
    kept: Identity = session.identity[0]
    return kept
