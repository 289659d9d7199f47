"""What is done to a TGT before it goes to the credential cache: addresses off, a TGT for another realm beside it.

Source: protocol notes, section 12. AUKS' own client asks for the cross-realm TGT in a way that an MIT KDC refuses.
"""

from __future__ import annotations

from collections.abc import Callable

from hipercow_slurm.errors import CredentialError, Error
from hipercow_slurm.values import KrbCred


def prepare(cred: KrbCred, cross_realm: str, tell: Callable[[str], object]) -> KrbCred:
    """``cred`` as the cache takes it; asks the KDC only if there is something to do.

    Args:
        cross_realm: realm to get a TGT for, or ""; nothing is done for a credential that has one already.
        tell: called with a sentence when that TGT is not to be had, which stops nothing.

    Raises:
        CredentialError: ``not-addressless``: the ticket is bound to addresses and the KDC gives none that is not.
    """
    cred = _without_addresses(cred)
    if not cross_realm or cred.tickets > 1:
        return cred
    from hipercow_slurm.krb5 import creds  # not needed by most

    try:
        return creds.cross_realm_tgt(cred, cross_realm)
    except Error as error:
        tell(f"no ticket for the realm {cross_realm}: {error.message}")
        return cred


def _without_addresses(cred: KrbCred) -> KrbCred:
    if cred.addressless:
        return cred
    from hipercow_slurm.krb5 import creds

    try:
        return creds.addressless(cred)
    except Error as error:
        raise CredentialError(
            f"no addressless ticket to be had: {error.message}", code="not-addressless", hint=error.hint
        ) from error
