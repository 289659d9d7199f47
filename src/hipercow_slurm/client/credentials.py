"""Where a client's session comes from: given, saved by ``hipercow-slurm login``, or begun with a password.

Rule 1: no password is kept here. It comes from a callback or from the system's keyring at the moment it is used.
Rule 2: a password that was refused is not tried again: the next attempt could be the one that locks the account.
"""

from __future__ import annotations

import contextlib
import getpass
import os
from collections.abc import Callable
from dataclasses import dataclass, field

from hipercow_slurm.client import profile
from hipercow_slurm.client.models import Session
from hipercow_slurm.client.problems import LOG_IN
from hipercow_slurm.client.profile import Saved, Settings
from hipercow_slurm.errors import ConfigError, CredentialError

Password = Callable[[str, str], str | None]
"""Given a username and a URL: the password, or None if there is none to be had."""
Answer = Callable[[str, bool], str | None]
"""Given a question of the KDC's, and whether the answer is to be hidden: the answer, or None to give up."""


@dataclass(slots=True)
class Credentials:
    """What a client may log in with.

    Attributes:
        cluster: name in the configuration, None for the one without a name.
        token: the session's secret as it is now.
        password: asked when a session is needed and there is none.
        answer: asked what the KDC asks beside the password, a one-time code for instance.
        keyring: look for the password in the system's keyring first.
        remember: save new sessions for the next program.
        pinned: a session of another user will not do.
    """

    url: str
    ca: str | None
    username: str
    cluster: str | None = None
    token: str | None = field(default=None, repr=False)
    password: Password | None = field(default=None, repr=False)
    answer: Answer | None = field(default=None, repr=False)
    keyring: bool = False
    remember: bool = True
    pinned: bool = False
    _refused: bool = False

    def saved_token(self, stale: str | None) -> str | None:
        """The token of the saved session, if it is not the ``stale`` one; raises ConfigError "session-unsafe"."""
        if not self.remember:
            return None
        saved = profile.load(self.cluster)
        if saved is None or saved.url != self.url or saved.token in (None, stale):
            return None
        if saved.username != self.username and self.pinned:
            return None
        self.username = saved.username
        return saved.token

    def find_password(self) -> str:
        """The password for a new session; it may ask, and block for it.

        Raises:
            CredentialError: "not-logged-in": nobody knows one.
        """
        found = None
        if not self._refused:
            if self.keyring:
                from hipercow_slurm.client import keys

                found = keys.password(self.url, self.username)
            if found is None and self.password is not None:
                found = self.password(self.username, self.url)
        if found is None:
            raise self.nobody()
        return found

    def nobody(self) -> CredentialError:
        """There is no session, and no way to one."""
        hint = f"{LOG_IN} --cluster {self.cluster}" if self.cluster else LOG_IN
        return CredentialError(f"you are not logged in at {self.url}", code="not-logged-in", hint=hint)

    @property
    def can_log_in(self) -> bool:
        """There is a way to a new session without anyone else's help."""
        return (self.keyring or self.password is not None) and not self._refused

    def refused(self) -> None:
        """The password was wrong."""
        self._refused = True

    def accept(self, session: Session) -> None:
        """Use ``session`` from now on, and save it."""
        self.token, self._refused = session.token, False
        if self.remember:
            profile.save(
                Saved(self.url, self.ca, self.username, session.principal, session.token, self.keyring), self.cluster
            )

    def forget(self) -> None:
        """The session is not to be used any more, here or by the next program."""
        ended, self.token = self.token, None
        if ended is not None and self.saved_token(None) == ended:
            profile.save(Saved(self.url, self.ca, self.username, keyring=self.keyring), self.cluster)


def choose(
    url: str | None,
    *,
    name: str | None,
    ca: str | None,
    token: str | None,
    username: str | None,
    password: Password | None,
    answer: Answer | None,
    keyring: bool | None,
    remember: bool,
) -> Credentials:
    """What a client begins with: its arguments, else the configuration, else the last login.

    Raises:
        ConfigError: "no-url", "bad-url" or a configuration that is wrong.
    """
    from hipercow_slurm.client.exchange import checked_url

    name = profile.chosen(name) if url is None else name
    settings = (_open_session(name) if url is None and ca is None else None) or profile.settings(name, url=url, ca=ca)
    if settings.url is None:
        raise ConfigError(
            "no cluster is known yet",
            code="no-url",
            hint=f'{LOG_IN} --url https://HOST:PORT, or url = "..." in {profile.config_file()}',
        )
    return Credentials(
        url=checked_url(settings.url),
        ca=settings.ca,
        username=username or settings.username or getpass.getuser(),
        cluster=name,
        token=token,
        password=password,
        answer=answer,
        keyring=settings.keyring if keyring is None else keyring,
        remember=remember and token is None,
        pinned=username is not None,
    )


def _open_session(name: str | None) -> Settings | None:
    """Where the saved session is. It is used there, also if the configuration has changed since."""
    if name is None and os.environ.get("HIPERCOW_SLURM_URL"):
        return None
    with contextlib.suppress(ConfigError):  # a file that must not be used: the first request says so
        saved = profile.load(name)
        if saved is not None and saved.token is not None:
            return Settings(saved.url, saved.ca, saved.username, saved.keyring)
    return None
