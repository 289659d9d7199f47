"""What the KDC says of a password, with our own ticket as armour around the question. Blocking: the desk's threads.

Every password given to this module is overwritten when it is done with it, whoever still waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hipercow_slurm import log
from hipercow_slurm.api.config import Api
from hipercow_slurm.api.desk import Armor
from hipercow_slurm.api.password import wipe
from hipercow_slurm.errors import CredentialError, Error, UnavailableError
from hipercow_slurm.krb5 import creds, passwords
from hipercow_slurm.krb5.krbcred import Ticket
from hipercow_slurm.krb5.lib import Krb5Error
from hipercow_slurm.values import KrbCred

_TOO_OLD = {"password-expired", "password-must-change"}
_USERS = {"account-locked", "account-expired", "clock-skew", "answers-wanted", "certificate-wanted", "weak-encryption"}
_WRONG = {"KRB5KDC_ERR_PREAUTH_FAILED", "KRB5KDC_ERR_C_PRINCIPAL_UNKNOWN"}


@dataclass(frozen=True, slots=True)
class MustChange:
    """The password is right, and the KDC wants another one: a ticket for changing it, and the KDC's reason."""

    ticket: Ticket = field(repr=False)
    code: str
    why: str


class Passwords:
    """Checks and changes passwords at the KDC."""

    def __init__(self, api: Api, service: str, armor: Armor | None) -> None:
        self._api = api
        self._service = service
        self._armor = armor

    def check(self, principal: str, password: bytearray, answers: Sequence[bytearray] = ()) -> KrbCred | MustChange:
        """A TGT of a KDC that has proved itself, or what to change the password with.

        ``answers`` are to what the KDC asks beside the password; they are overwritten, too.

        Raises:
            as ``creds.password_tgt``; CredentialError ``password-expired`` and ``password-must-change`` only where the
            password cannot be changed through us.
        """
        try:
            armor = self._armor.ticket() if self._armor else None
            try:
                return self._tgt(principal, password, answers, armor)
            except Error as error:
                if armor is None or self._armor is None:
                    raise
                if isinstance(error, CredentialError) and error.code in _TOO_OLD:
                    return self._must_change(principal, password, armor, error)
                if _is_judgement(error):
                    raise
                if error.code == "unknown-service" and self._api.fast == "try":
                    # Users of another realm that ours trusts and that does not trust ours: no armour for its KDC.
                    log.get().warning("login.without-armor", code=error.code, why=_short(error))
                    return self._tgt(principal, password, answers, None)
                # The KDC may have other keys by now, or be another KDC: with new armour, or without, we will see.
                self._armor.forget(armor)
                log.get().info("login.armor-forgotten", code=error.code, why=_short(error))
                return self._tgt(principal, password, answers, self._armor.ticket())
        finally:
            wipe(password, *answers)

    def change(self, ticket: Ticket, password: bytearray) -> None:
        """Set a new password.

        Raises:
            as ``krb5.passwords.change_password``.
        """
        try:
            passwords.change_password(ticket, password)
        finally:
            wipe(password)

    def _tgt(self, principal: str, password: bytearray, answers: Sequence[bytearray], armor: KrbCred | None) -> KrbCred:
        return creds.password_tgt(
            principal,
            password,
            keytab=self._api.keytab,
            service=self._service,
            lifetime_s=self._api.ticket_life_s,
            renew_s=self._api.ticket_renew_s,
            armor=armor,
            armor_required=self._api.fast == "require",
            weak=self._api.weak_enctypes == "allow",
            answers=answers,
        )

    def _must_change(self, principal: str, password: bytearray, armor: KrbCred, error: CredentialError) -> MustChange:
        """The KDC said "too old" before it looked at the password: only the right one gets a ticket for changing it."""
        try:
            ticket = passwords.change_ticket(principal, password, armor=armor)
        except CredentialError as refused:
            raise refused if refused.code == "login-failed" else error from None
        except UnavailableError:
            raise
        except Error as refused:
            log.get().warning("login.no-conversation", principal=principal, code=refused.code, why=refused.message)
            raise error from None
        return MustChange(ticket, error.code, "the password is right, but it must be changed before it is of use")


def _short(error: Error) -> str:
    """libkrb5's name for it: its sentences have the user's name in them, which may be a password."""
    return error.__cause__.name if isinstance(error.__cause__, Krb5Error) else error.code


def _is_judgement(error: Error) -> bool:
    """The KDC judged the user, or was not there: nothing is wrong with our armour."""
    if isinstance(error, UnavailableError) or error.code in _USERS:
        return True
    return error.code == "login-failed" and isinstance(error.__cause__, Krb5Error) and error.__cause__.name in _WRONG
