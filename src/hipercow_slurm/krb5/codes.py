"""Which libkrb5 error becomes which of ours: the one table. Pure data; ``lib.check`` applies it.

To add a case: put the name into NUMBERS if it is not there (the build compares it with krb5.h), then a row into
ERRORS. A row for a stage wins over the row for any stage (""); the stage's default comes last.
"""

from __future__ import annotations

import errno
from typing import NamedTuple

from hipercow_slurm import errors

KRB5_BASE = -1765328384  # krb5_err.et; protocol error n of RFC 4120 section 7.5.9 is KRB5_BASE + n

NUMBERS: dict[str, int] = {
    "KRB5KDC_ERR_NAME_EXP": -1765328383,
    "KRB5KDC_ERR_C_PRINCIPAL_UNKNOWN": -1765328378,
    "KRB5KDC_ERR_S_PRINCIPAL_UNKNOWN": -1765328377,
    "KRB5KDC_ERR_NEVER_VALID": -1765328373,
    "KRB5KDC_ERR_POLICY": -1765328372,
    "KRB5KDC_ERR_BADOPTION": -1765328371,
    "KRB5KDC_ERR_ETYPE_NOSUPP": -1765328370,
    "KRB5KDC_ERR_CLIENT_REVOKED": -1765328366,
    "KRB5KDC_ERR_SERVICE_REVOKED": -1765328365,
    "KRB5KDC_ERR_TGT_REVOKED": -1765328364,
    "KRB5KDC_ERR_CLIENT_NOTYET": -1765328363,
    "KRB5KDC_ERR_KEY_EXP": -1765328361,
    "KRB5KDC_ERR_PREAUTH_FAILED": -1765328360,
    "KRB5KDC_ERR_PREAUTH_REQUIRED": -1765328359,
    "KRB5KDC_ERR_SVC_UNAVAILABLE": -1765328355,
    "KRB5KRB_AP_ERR_BAD_INTEGRITY": -1765328353,
    "KRB5KRB_AP_ERR_TKT_EXPIRED": -1765328352,
    "KRB5KRB_AP_ERR_TKT_NYV": -1765328351,
    "KRB5KRB_AP_ERR_REPEAT": -1765328350,
    "KRB5KRB_AP_ERR_NOT_US": -1765328349,
    "KRB5KRB_AP_ERR_BADMATCH": -1765328348,
    "KRB5KRB_AP_ERR_SKEW": -1765328347,
    "KRB5KRB_AP_ERR_BADADDR": -1765328346,
    "KRB5KRB_AP_ERR_MSG_TYPE": -1765328344,
    "KRB5KRB_AP_ERR_MODIFIED": -1765328343,
    "KRB5KRB_AP_ERR_BADORDER": -1765328342,
    "KRB5KRB_AP_ERR_BADKEYVER": -1765328340,
    "KRB5KRB_AP_ERR_NOKEY": -1765328339,
    "KRB5KRB_AP_ERR_MUT_FAIL": -1765328338,
    "KRB5KRB_ERR_GENERIC": -1765328324,
    "KRB5KDC_ERR_WRONG_REALM": -1765328316,
    "KRB5_LIBOS_CANTREADPWD": -1765328254,
    "KRB5_PARSE_MALFORMED": -1765328250,
    "KRB5_CONFIG_CANTOPEN": -1765328249,
    "KRB5_CONFIG_BADFORMAT": -1765328248,
    "KRB5_CONFIG_NOTENUFSPACE": -1765328247,
    "KRB5_CC_BADNAME": -1765328245,
    "KRB5_CC_UNKNOWN_TYPE": -1765328244,
    "KRB5_CC_NOTFOUND": -1765328243,
    "KRB5_CC_END": -1765328242,
    "KRB5KRB_AP_WRONG_PRINC": -1765328240,
    "KRB5KRB_AP_ERR_TKT_INVALID": -1765328239,
    "KRB5_KDCREP_MODIFIED": -1765328237,
    "KRB5_KDCREP_SKEW": -1765328236,
    "KRB5_REALM_UNKNOWN": -1765328230,
    "KRB5_KDC_UNREACH": -1765328228,
    "KRB5_NO_LOCALNAME": -1765328227,
    "KRB5_MUTUAL_FAILED": -1765328226,
    "KRB5_LNAME_CANTOPEN": -1765328209,
    "KRB5_LNAME_NOTRANS": -1765328208,
    "KRB5_LNAME_BADFORMAT": -1765328207,
    "KRB5_KT_BADNAME": -1765328205,
    "KRB5_KT_UNKNOWN_TYPE": -1765328204,
    "KRB5_KT_NOTFOUND": -1765328203,
    "KRB5_KT_END": -1765328202,
    "KRB5_KT_IOERR": -1765328200,
    "KRB5_FCC_PERM": -1765328190,
    "KRB5_FCC_NOFILE": -1765328189,
    "KRB5_CC_FORMAT": -1765328185,
    "KRB5_PREAUTH_FAILED": -1765328174,
    "KRB5_KEYTAB_BADVNO": -1765328171,
    "KRB5_REALM_CANT_RESOLVE": -1765328164,
    "KRB5_GET_IN_TKT_LOOP": -1765328161,
    "KRB5_CONFIG_NODEFREALM": -1765328160,
    "KRB5_KT_KVNONOTFOUND": -1765328154,
}

NAMES: dict[int, str] = {number: name for name, number in NUMBERS.items()}

# Stages: what was being done when libkrb5 refused. The same code means different things at different stages.
LOGIN, KEYTAB_LOGIN, VERIFY, TGS = "login", "keytab-login", "verify", "tgs"
INITIATE, ACCEPT, PRIV, CCACHE, KEYTAB, NAME, SETUP = (
    "initiate",
    "accept",
    "priv",
    "ccache",
    "keytab",
    "name",
    "setup",
)


class Row(NamedTuple):
    """Family and code of our error; the hint; a fixed sentence where libkrb5's own would tell too much."""

    family: type[errors.Error]
    code: str
    hint: str | None = None
    sentence: str | None = None
    status: int | None = None


# One row for "no such user" and "wrong password": from outside they must look alike, to the letter.
LOGIN_FAILED = Row(
    errors.CredentialError, "login-failed", "check the user name and the password", "wrong user name or password", 401
)
EXPIRED = Row(errors.CredentialError, "expired", "log in again (kinit, or hipercow-slurm login)")
SKEW = Row(errors.CredentialError, "clock-skew", "an administrator should compare this host's clock with the KDC's")
LOCKED = Row(errors.CredentialError, "account-locked", "ask an administrator to unlock the account")
UNREACHABLE = Row(errors.UnavailableError, "kdc-unreachable", "try again; an administrator should look at the KDC")
NO_REALM = Row(errors.RequestError, "unknown-realm", "check the realm in the user name, or add it to krb5.conf")
KEYTAB_ROW = Row(errors.ConfigError, "keytab", "check the keytab's path, owner and mode; klist -k shows its keys")
KRB5_CONF = Row(errors.ConfigError, "krb5-conf", "check krb5.conf")
NOT_GENUINE = Row(
    errors.AccessError,
    "kdc-not-genuine",
    "either someone answers in place of the KDC, or the server's keytab is out of date: compare klist -k with kadmin",
)
OTHER_KEY = Row(
    errors.CredentialError,
    "not-for-us",
    "get a new ticket; if it goes on, the server's keytab is out of date",
)
NO_TGT = Row(errors.CredentialError, "no-tgt", "get a ticket: kinit")
NO_LOCALNAME = Row(errors.AccessError, "no-localname", "an administrator may add an auth_to_local rule to krb5.conf")
REFUSED = Row(errors.AccessError, "kdc-refused", "the KDC's log tells why")
NO_SERVICE = Row(errors.AccessError, "unknown-service", "check the service's principal name; kadmin listprincs")

SEAL_BROKEN = Row(errors.ProtocolError, "seal-broken")

ANY = ""

ERRORS: dict[tuple[str, str], Row] = {
    (ANY, "KRB5_KDC_UNREACH"): UNREACHABLE,
    (ANY, "KRB5KDC_ERR_SVC_UNAVAILABLE"): UNREACHABLE,
    (ANY, "ETIMEDOUT"): UNREACHABLE,
    (ANY, "ECONNREFUSED"): UNREACHABLE,
    (ANY, "KRB5_REALM_CANT_RESOLVE"): UNREACHABLE,
    (ANY, "KRB5_REALM_UNKNOWN"): NO_REALM,
    (ANY, "KRB5KDC_ERR_WRONG_REALM"): NO_REALM,
    (ANY, "KRB5KRB_AP_ERR_SKEW"): SKEW,
    (ANY, "KRB5_KDCREP_SKEW"): SKEW,
    (ANY, "KRB5KRB_AP_ERR_TKT_NYV"): SKEW,
    (ANY, "KRB5KRB_AP_ERR_TKT_EXPIRED"): EXPIRED,
    (ANY, "KRB5KDC_ERR_NEVER_VALID"): EXPIRED,
    (ANY, "KRB5KDC_ERR_TGT_REVOKED"): EXPIRED,
    (ANY, "KRB5KRB_AP_ERR_BADADDR"): Row(
        errors.CredentialError, "wrong-address", "the ticket is bound to other addresses: get an addressless one"
    ),
    (ANY, "KRB5KDC_ERR_CLIENT_REVOKED"): LOCKED,
    (ANY, "KRB5KDC_ERR_NAME_EXP"): Row(
        errors.CredentialError, "account-expired", "ask an administrator to extend the account"
    ),
    (ANY, "KRB5KDC_ERR_CLIENT_NOTYET"): LOCKED,
    (ANY, "KRB5KDC_ERR_KEY_EXP"): Row(
        errors.CredentialError, "password-expired", "change the password: kpasswd, or ask an administrator"
    ),
    (ANY, "KRB5KDC_ERR_S_PRINCIPAL_UNKNOWN"): NO_SERVICE,
    (ANY, "KRB5KDC_ERR_POLICY"): REFUSED,
    (ANY, "KRB5_CONFIG_CANTOPEN"): KRB5_CONF,
    (ANY, "KRB5_CONFIG_BADFORMAT"): KRB5_CONF,
    (ANY, "KRB5_CONFIG_NODEFREALM"): KRB5_CONF,
    (ANY, "KRB5_KT_NOTFOUND"): KEYTAB_ROW,
    (ANY, "KRB5_KT_BADNAME"): KEYTAB_ROW,
    (ANY, "KRB5_KT_UNKNOWN_TYPE"): KEYTAB_ROW,
    (ANY, "KRB5_KT_IOERR"): KEYTAB_ROW,
    (ANY, "KRB5_KT_END"): KEYTAB_ROW,
    (ANY, "KRB5_KEYTAB_BADVNO"): KEYTAB_ROW,
    (LOGIN, "KRB5KDC_ERR_C_PRINCIPAL_UNKNOWN"): LOGIN_FAILED,
    (LOGIN, "KRB5KDC_ERR_PREAUTH_FAILED"): LOGIN_FAILED,
    (LOGIN, "KRB5KRB_AP_ERR_BAD_INTEGRITY"): LOGIN_FAILED,
    (LOGIN, "KRB5KRB_AP_ERR_MODIFIED"): LOGIN_FAILED,
    (LOGIN, "KRB5_PREAUTH_FAILED"): Row(
        errors.AccessError,
        "login-unsupported",
        "get a ticket with kinit where that can be given, then: hipercow-slurm login --kerberos",
        "the KDC wants something else than a password for this account",
    ),
    (LOGIN, "KRB5KDC_ERR_ETYPE_NOSUPP"): Row(
        errors.CredentialError,
        "weak-encryption",
        "change the password; if that does not help, an administrator should look at the account's keys",
        "the KDC has no key of the account of a type that is permitted here",
    ),
    (KEYTAB_LOGIN, "KRB5KDC_ERR_C_PRINCIPAL_UNKNOWN"): KEYTAB_ROW,
    (KEYTAB_LOGIN, "KRB5KDC_ERR_PREAUTH_FAILED"): KEYTAB_ROW,
    (KEYTAB_LOGIN, "KRB5KRB_AP_ERR_BAD_INTEGRITY"): KEYTAB_ROW,
    (KEYTAB_LOGIN, "KRB5_KT_KVNONOTFOUND"): KEYTAB_ROW,
    (VERIFY, "KRB5KDC_ERR_S_PRINCIPAL_UNKNOWN"): NOT_GENUINE,
    (VERIFY, "KRB5_KT_NOTFOUND"): NOT_GENUINE,
    (TGS, "KRB5_CC_NOTFOUND"): NO_TGT,
    (ACCEPT, "KRB5KRB_AP_ERR_NOT_US"): OTHER_KEY,
    (ACCEPT, "KRB5KRB_AP_WRONG_PRINC"): OTHER_KEY,
    (ACCEPT, "KRB5KRB_AP_ERR_BADKEYVER"): OTHER_KEY,
    (ACCEPT, "KRB5KRB_AP_ERR_NOKEY"): OTHER_KEY,
    (ACCEPT, "KRB5KRB_AP_ERR_BAD_INTEGRITY"): OTHER_KEY,
    (ACCEPT, "KRB5_KT_NOTFOUND"): OTHER_KEY,
    (ACCEPT, "KRB5_KT_KVNONOTFOUND"): OTHER_KEY,
    (ACCEPT, "KRB5KRB_AP_ERR_TKT_INVALID"): Row(errors.CredentialError, "ticket-invalid", "get a new ticket"),
    (PRIV, "KRB5KRB_AP_ERR_BADADDR"): SEAL_BROKEN,
    (NAME, "KRB5_CONFIG_NOTENUFSPACE"): NO_LOCALNAME,
    (NAME, "KRB5_NO_LOCALNAME"): NO_LOCALNAME,
    (NAME, "KRB5_LNAME_NOTRANS"): NO_LOCALNAME,
    (NAME, "KRB5_LNAME_BADFORMAT"): NO_LOCALNAME,
    (NAME, "KRB5_LNAME_CANTOPEN"): NO_LOCALNAME,
}

DEFAULTS: dict[str, Row] = {
    LOGIN: REFUSED,
    KEYTAB_LOGIN: REFUSED,
    VERIFY: NOT_GENUINE,
    TGS: REFUSED,
    INITIATE: Row(errors.ProtocolError, "auth-failed"),
    ACCEPT: Row(errors.ProtocolError, "auth-failed"),
    PRIV: SEAL_BROKEN,
    CCACHE: NO_TGT,
    KEYTAB: KEYTAB_ROW,
    NAME: Row(errors.RequestError, "bad-principal"),
    SETUP: Row(errors.InternalError, "bug"),
}


def name_of(number: int) -> str:
    """Name of a libkrb5 error or errno; empty for one nobody needed to name yet."""
    return NAMES.get(number) or errno.errorcode.get(number, "")


def row(number: int, stage: str) -> Row:
    """What an error at a stage means."""
    name = name_of(number)
    return ERRORS.get((stage, name)) or ERRORS.get((ANY, name)) or DEFAULTS[stage]
