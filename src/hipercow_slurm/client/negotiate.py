"""HTTP Negotiate (RFC 4559) from the client's side: the ticket that is here is delegated to the API.

Needs python-gssapi, which is not part of the base install, and a forwardable ticket: ``kinit -f``.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from hipercow_slurm.errors import AccessError, ConfigError, CredentialError


def available() -> bool:
    """There is a ticket here that is good for another minute; False also without the library."""
    try:
        gssapi = _library()
        return int(gssapi.Credentials(usage="initiate").lifetime or 0) > 60
    except ConfigError:
        return False
    except gssapi.exceptions.GSSError:
        return False


class Negotiation:
    """One exchange: our token out, the API's proof back.

    Raises:
        ConfigError: "no-kerberos": the library is not installed.
    """

    def __init__(self, url: str) -> None:
        self._gssapi = _library()
        host = urlsplit(url).hostname or ""
        flags = self._gssapi.RequirementFlag
        name = self._gssapi.Name(f"HTTP@{host}", self._gssapi.NameType.hostbased_service)
        self._context = self._gssapi.SecurityContext(
            name=name,
            usage="initiate",
            mech=self._gssapi.MechType.kerberos,
            flags=flags.delegate_to_peer | flags.mutual_authentication,
        )

    def headers(self) -> dict[str, str]:
        """What to send. Raises CredentialError "no-credential": no ticket, or none for this server."""
        try:
            token = self._context.step()
        except self._gssapi.exceptions.GSSError as error:
            raise CredentialError(
                f"no ticket for the cluster: {_words(error)}",
                code="no-credential",
                hint="kinit -f, or log in with your password",
            ) from error
        return {"Authorization": f"Negotiate {base64.b64encode(token or b'').decode()}"}

    def check(self, headers: Mapping[str, str]) -> None:
        """Judge the answer's proof. Raises AccessError "server-not-proven"."""
        scheme, _, proof = headers.get("www-authenticate", "").partition(" ")
        try:
            self._context.step(base64.b64decode(proof, validate=True))
            complete = scheme.lower() == "negotiate" and self._context.complete
        except (self._gssapi.exceptions.GSSError, binascii.Error, ValueError):
            complete = False
        if not complete:
            raise AccessError("the server did not prove that it is the API", code="server-not-proven")


def _words(error: Any) -> str:
    """The library's reason in one sentence: the minor status says what the major only hints at."""
    return str(error).partition("Minor (")[2].partition("): ")[2] or str(error)


def _library() -> Any:
    try:
        import gssapi
        import gssapi.exceptions
    except (ImportError, OSError) as error:
        raise ConfigError(
            "the Kerberos library is not installed",
            code="no-kerberos",
            hint="pip install 'hipercow-slurm[kerberos]', or log in with your password",
        ) from error
    return gssapi
