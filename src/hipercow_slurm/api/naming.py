"""How somebody who has not proved who it is stands in logs, the audit log and the throttle's table.

People type passwords into the name's field. Rule 1: a name is written down only if it has an account here; any other
is written as a mark. Rule 2: the same name has the same mark everywhere and at all times, so an operator sees what
belongs together, and ``hipercow-slurm audit mark`` tells the mark of a name. Rule 3: marks are made with a key that
comes from our keytab and is in no log and no database: whoever has those cannot try words against them.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time

from hipercow_slurm.api.accounts import Accounts
from hipercow_slurm.errors import Error
from hipercow_slurm.krb5 import keytab

_PURPOSE = b"hipercow-slurm api: names that have no account"
_BYTES = 8  # of a mark: two names of one site never share it
_PATIENCE_S = 3.0
_REMEMBERED_S = 60.0
_KEPT = 10_000


class Names:
    """Names or marks. Every keytab has marks of its own: hosts that are to agree share one.

    Raises:
        ConfigError: code ``keytab``.
    """

    def __init__(self, accounts: Accounts, keytab_name: str) -> None:
        self._accounts = accounts
        self._key = keytab.derived_key(keytab_name, _PURPOSE)
        self._known: dict[str, tuple[float, bool]] = {}

    async def of(self, principal: str) -> str:
        """The principal if it has an account here, else its mark; an account not found in three seconds is none."""
        mark = mark_of(principal, self._key)
        until, known = self._known.get(mark, (0.0, False))
        if until < time.monotonic():
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    known = await self._accounts.exists(principal) or known  # it was there: name services come and go
            except TimeoutError:
                pass
            if len(self._known) >= _KEPT:
                self._known.clear()
            self._known[mark] = time.monotonic() + _REMEMBERED_S, known
        return principal if known else mark


def one_spelling(principal: str) -> str:
    """What all spellings of a name have in common: Active Directory takes ``Alice`` and ``ALICE`` for alice, and counts
    what fails under any of them as hers."""
    name, at, realm = principal.rpartition("@")
    return f"{name.lower()}{at}{realm}"


def mark_of(principal: str, key: bytes) -> str:
    """What stands in place of a name."""
    digest = hmac.digest(key, principal.encode("utf-8", "surrogateescape"), hashlib.sha256)
    return "unknown:" + digest[:_BYTES].hex()


def mark_for_operator(principal: str, keytab_name: str) -> str:
    """The mark that an API with this keytab makes of a name.

    Raises:
        ConfigError: code ``keytab``.
    """
    return mark_of(principal, keytab.derived_key(keytab_name, _PURPOSE))


def hide(error: Error, principal: str, shown: str) -> None:
    """Say ``shown`` in the error's sentence where it says the principal."""
    error.message = error.message.replace(principal, shown)
    error.args = (error.message,)
