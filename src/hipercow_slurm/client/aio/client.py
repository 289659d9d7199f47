"""What programs on a laptop hold in their hands."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Unpack

from hipercow_slurm.client import local, models
from hipercow_slurm.client.aio.calls import AsyncCalls
from hipercow_slurm.client.aio.connection import AsyncConnection, OnRetry
from hipercow_slurm.client.aio.job import AsyncJob
from hipercow_slurm.client.credentials import Answer, Password, choose
from hipercow_slurm.client.exchange import MAYBE_SUBMITTED, Ask
from hipercow_slurm.client.models import JobInfo, Session
from hipercow_slurm.client.options import JobOptions, JobSpec, script_text
from hipercow_slurm.client.problems import from_document
from hipercow_slurm.errors import Error, InternalError

__all__ = ["AsyncClient"]


class AsyncClient(AsyncCalls):
    """A connection to the API of a cluster.

    Args:
        url: where the API is; None: the configuration's, else that of the last login.
        cluster: name of a cluster in the configuration; None: the usual one.
        token: a session's secret. Otherwise the session that ``hipercow-slurm login`` saved is used, and if there is
            none, or it has ended, a new one is begun with the password.
        username: name at the cluster; None: the configuration's, else that of the last login, else one's name here.
        password: called with username and URL when a password is needed; returns None if there is none to be had.
            It may ask a person. A password that was refused is not tried a second time.
        answer: called with the text of a question that the KDC asks beside the password (a one-time code, a PIN) and
            whether the answer is to be hidden; returns None to give up.
        keyring: look for the password in the system's keyring first; None: as the configuration says (default: no).
        remember: save new sessions for the next program. Otherwise ``close`` ends one that was begun here.
        ca: PEM file with the only certificate authority to trust; None: the configuration's, else the system's.
        timeout_s: longest wait for an answer, and again for the whole of its body.
        patience_s: how long requests that may be repeated are repeated while the server is unavailable.
        on_retry: told of each repetition, with the error and the pause in seconds.

    Raises:
        ConfigError: "no-url", "bad-url", "bad-ca", or a configuration that is wrong.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        cluster: str | None = None,
        token: str | None = None,
        username: str | None = None,
        password: Password | None = None,
        answer: Answer | None = None,
        keyring: bool | None = None,
        remember: bool = True,
        ca: str | None = None,
        timeout_s: float = 30.0,
        patience_s: float = 12.0,
        on_retry: OnRetry | None = None,
    ) -> None:
        self.credentials = choose(
            url,
            name=cluster,
            ca=ca,
            token=token,
            username=username,
            password=password,
            answer=answer,
            keyring=keyring,
            remember=remember,
        )
        self.url = self.credentials.url
        self._connection = AsyncConnection(
            self.credentials, timeout_s=timeout_s, patience_s=patience_s, on_retry=on_retry
        )

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._connection.close()

    # ---- sessions --------------------------------------------------------------------------------------------

    async def login(self, username: str, password: str) -> Session:
        """Begin a session and use it from now on.

        Raises:
            CredentialError: "login-failed", "account-locked", ...
            MustChangeError: go on with ``change_password``. AnswersWantedError: the KDC asks for more than a password,
                and there is no ``answer`` to ask.
        """
        self.credentials.username = username
        return await self._connection.log_in(username, password)

    async def change_password(self, conversation: str, new_password: str) -> Session:
        """Go on with a login that ended in MustChangeError; RequestError "password-rejected": try another one."""
        body = {"conversation": conversation, "new_password": new_password}
        return await self._connection.begin(Ask("POST", "/v1/conversations", body=body, safe=False, session=False))

    async def login_with_ticket(self) -> Session:
        """Begin a session with the Kerberos ticket that is here (``kinit``), which is delegated to the API.

        Raises:
            ConfigError: "no-kerberos": the library is not installed.
            CredentialError: "no-credential": there is no ticket, or it cannot be forwarded.
            AccessError: the API, or whoever answers in its place, could not prove who it is.
        """
        from hipercow_slurm.client.negotiate import Negotiation

        negotiation = Negotiation(self.url)
        ask = Ask("POST", "/v1/sessions", headers=negotiation.headers(), safe=False, session=False)
        answer = await self._ask(ask)
        negotiation.check(answer.headers)
        return self._connection.begun(Session.parse(answer.document()))

    async def logout(self) -> None:
        """End this session, here and at the cluster. Jobs keep their ticket. CredentialError "not-logged-in"."""
        credentials = self.credentials
        token = credentials.token = credentials.token or credentials.saved_token(None)
        if token is None:
            raise credentials.nobody()
        # Forgotten here first: whatever the server says, this machine no longer holds the session.
        credentials.forget()
        await self._connection.end(token)

    # ---- jobs ------------------------------------------------------------------------------------------------

    async def submit(
        self, script: str | Path, *, idempotency_key: str | None = None, **options: Unpack[JobOptions]
    ) -> AsyncJob:
        """Submit a job.

        Args:
            script: the text of a script, or a Path to one; text without ``#!`` becomes a shell script.
            idempotency_key: however often an answer gets lost, the same key makes one job; None: a new one.
            options: as in ``JobOptions``.

        Raises:
            SchedulerError: "job-rejected", with Slurm's words.
            RequestError: what was asked for makes no sense. UnavailableError: if the answer was lost for good, the
                error's hint names the key with which to ask again.
        """
        if isinstance(script, Path):
            options = {"name": script.name, **options}
            script = local.text(script)
        spec: dict[str, Any] = {"script": script_text(script), **options}
        return AsyncJob(self, JobInfo.parse(await self._submit("/v1/jobs", spec, idempotency_key)))

    async def submit_many(
        self,
        jobs: Sequence[JobSpec],
        *,
        idempotency_key: str | None = None,
        on_progress: Callable[[int, int], object] | None = None,
    ) -> list[AsyncJob | Error]:
        """Submit many jobs in few requests; for each, in order, the job, or the error that kept it from being one.

        Args:
            jobs: each with a ``script`` and options.
            idempotency_key: with the same key and the same jobs, none is made twice, and refused ones are tried again.
            on_progress: told how many of how many are done.
        """
        key = idempotency_key or secrets.token_hex(16)
        at_once = int(((await self.cluster()).get("limits") or {}).get("bulk_jobs") or 100)
        done: list[AsyncJob | Error] = []
        for begin in range(0, len(jobs), at_once):
            part = [{**job, "script": script_text(job["script"])} for job in jobs[begin : begin + at_once]]
            answer = await self._submit("/v1/jobs:bulk", {"jobs": part}, f"{key}-{begin}")
            for row in models.objects(answer, "results"):
                job = models.optional(row, "job", dict)
                if job is not None:
                    done.append(AsyncJob(self, JobInfo.parse(job)))
                else:
                    status = models.get(row, "status", int)
                    done.append(from_document(status, models.get(row, "problem", dict), server=self.url))
            if on_progress:
                on_progress(len(done), len(jobs))
        return done

    async def _submit(self, path: str, body: Any, idempotency_key: str | None) -> models.Json:
        key = idempotency_key or secrets.token_hex(16)
        # The API needs its time to find out what became of a submission whose answer it lost itself.
        ask = Ask("POST", path, body=body, headers={"Idempotency-Key": key}, patience=4.0)
        try:
            return (await self._ask(ask)).document()
        except Error as error:
            if error.code in MAYBE_SUBMITTED or isinstance(error, InternalError):
                error.hint = f"to make one job and no more, submit again with --idempotency-key {key}"
            raise

    async def job(self, job_id: int) -> AsyncJob:
        """A job by its number. RequestError "no-such-job"."""
        return AsyncJob(self, await self.job_info(job_id))

    async def jobs(self, *states: str, **query: str | int) -> list[AsyncJob]:
        """The user's jobs, by rising id.

        Args:
            states: only these (``RUNNING``, ``PENDING``, ...); none: all.
            query: ``name`` (with ``*`` and ``?``), ``partition``, ``since`` (RFC 3339, or seconds), ``forgotten``
                (``true``: also those that Slurm no longer knows).
        """
        if states:
            query["state"] = ",".join(states)
        return [AsyncJob(self, info) for info in await self.job_infos(**query)]

    # ---- files -----------------------------------------------------------------------------------------------

    async def download(
        self, path: str, to: str | Path, *, on_progress: Callable[[int, int | None], object] | None = None
    ) -> int:
        """Copy a file from the cluster to this machine; its size. ``to`` is complete or as it was.

        Args:
            on_progress: told how many bytes of how many are here.
        """
        with local.Aside(Path(to)) as file:
            while True:
                piece = await self.read(path, offset=file.size)
                file.write(piece.data)
                if on_progress:
                    on_progress(file.size, piece.size)
                if not piece.data or file.size >= (piece.size or 0):
                    return file.size

    async def upload(
        self,
        from_: str | Path,
        path: str,
        *,
        mode: int | None = None,
        on_progress: Callable[[int, int], object] | None = None,
    ) -> int:
        """Copy a file of this machine to the cluster; its size. ``mode`` is for a new file; None: as it is here.

        Args:
            on_progress: told how many bytes of how many have been sent.
        """
        data, own = local.content(Path(from_))
        await self.write(path, data, mode=own if mode is None else mode, on_progress=on_progress)
        return len(data)
