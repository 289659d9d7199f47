"""What the Kerberos tests share: a realm's description, logging in, and expecting a refusal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from hipercow_slurm.errors import Error
from hipercow_slurm.krb5 import creds
from hipercow_slurm.testing.realm import Realm
from hipercow_slurm.values import KrbCred

PASSWORD = "correct horse / battery"


@dataclass(frozen=True)
class Kdc:
    """A running realm and what is in it."""

    realm: Realm
    http: str  # keytab of HTTP/head.test, the API's
    auks: str  # keytab of auks/head.test

    def login(self, principal: str = "alice", **options: int) -> KrbCred:
        """A TGT by password, verified with the HTTP keytab."""
        return creds.password_tgt(
            principal, bytearray(PASSWORD.encode()), keytab=self.http, service="HTTP/head.test", **options
        )


def refused(work: Callable[..., object], kind: type[Error], code: str, *arguments: object) -> Error:
    """The error ``work`` raises, which must be of this family and code, and must not show the password."""
    with pytest.raises(Error) as caught:
        work(*arguments)
    error = caught.value
    said = f"{type(error).__name__} {error.code}: {error} / {error.__cause__}"
    assert (type(error), error.code) == (kind, code), said
    assert PASSWORD not in said
    return error
