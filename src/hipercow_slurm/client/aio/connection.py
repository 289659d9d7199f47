"""A connection to the API: sends requests, repeats those that may be, and begins a new session when one has ended.

Rule 1: every request has a deadline and every answer a limit.
Rule 2: whether a request may be repeated is judged in ``exchange.py``; it is repeated as it is, with the same
Idempotency-Key, also after a new login.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import tenacity

from hipercow_slurm.client import exchange
from hipercow_slurm.client.aio.means import AsyncLock, asleep, in_thread
from hipercow_slurm.client.credentials import Credentials
from hipercow_slurm.client.exchange import Again, Answer, Ask, Patience, httpx
from hipercow_slurm.client.models import Session
from hipercow_slurm.client.problems import AnswersWantedError, Prompt
from hipercow_slurm.errors import CredentialError, Error

ROUNDS = 8  # the API takes no more answers
OnRetry = Callable[[Error, float], object]


class AsyncConnection:
    """See ``AsyncClient``, whose arguments these are."""

    def __init__(
        self, credentials: Credentials, *, timeout_s: float, patience_s: float, on_retry: OnRetry | None
    ) -> None:
        self.credentials, self.url = credentials, credentials.url
        self._timeout_s, self._patience_s, self._on_retry = timeout_s, patience_s, on_retry
        self._http = httpx.AsyncClient(
            **exchange.http_settings(credentials.url, ca=credentials.ca, timeout_s=timeout_s)
        )
        self._logging_in = AsyncLock()
        self._ours = False

    async def close(self) -> None:
        """Close the connections; a session that was begun here and is not remembered ends."""
        try:
            if self._ours and not self.credentials.remember and self.credentials.token is not None:
                self._patience_s = 0.0
                await self.end(self.credentials.token)
        except Error:
            pass  # it ends by itself, later
        finally:
            await self._http.aclose()

    async def ask(self, ask: Ask) -> Answer:
        """The answer to a request, after repetitions and a new login where these are possible."""
        if not ask.session:
            return await self._persist(ask, None)
        token = self.credentials.token
        if token is None:
            token = await self._new_token(None)
        try:
            return await self._persist(ask, token)
        except Error as error:
            if error.status != 401:
                raise
            try:
                fresh = await self._new_token(token)
            except CredentialError as none:
                if none.code != "not-logged-in":
                    raise
                raise error from None
        return await self._persist(ask, fresh)

    async def _new_token(self, stale: str | None) -> str:
        """Another session than ``stale``: one that somebody has begun meanwhile, or one of our own.

        Raises:
            CredentialError: "not-logged-in": there is no way to one.
        """
        async with self._logging_in:
            credentials = self.credentials
            if credentials.token is not None and credentials.token != stale:
                return credentials.token
            saved = credentials.saved_token(stale)
            if saved is not None:
                credentials.token = saved
                return saved
            password = await in_thread(credentials.find_password)
            try:
                session = await self.log_in(credentials.username, password)
            except CredentialError as error:
                if error.code == "login-failed":
                    credentials.refused()
                raise
            return session.token

    async def log_in(self, username: str, password: str) -> Session:
        """Begin a session with a password, which is sent once, and once more with each round of answers."""
        body: dict[str, Any] = {"username": username, "password": password}
        while True:
            try:
                return await self.begin(Ask("POST", "/v1/sessions", body=body, safe=False, session=False))
            except AnswersWantedError as error:
                given = [await self._answer(prompt) for prompt in error.prompts]
                if not given or None in given or ("answers" in body and len(body["answers"]) >= ROUNDS):
                    raise
                body["answers"] = [*body.get("answers", ()), *given]

    async def _answer(self, prompt: Prompt) -> str | None:
        answer = self.credentials.answer
        return None if answer is None else await in_thread(lambda: answer(prompt.text, prompt.hidden))

    async def begin(self, ask: Ask) -> Session:
        """The session that a way in has led to; used from now on."""
        return self.begun(Session.parse((await self.ask(ask)).document()))

    def begun(self, session: Session) -> Session:
        """Use a session that has just begun."""
        self.credentials.accept(session)
        self._ours = True
        return session

    async def end(self, token: str) -> None:
        """End the session with this token; one that has ended already is no error."""
        try:
            await self._persist(Ask("DELETE", "/v1/sessions/current"), token)
        except Error as error:
            if error.status != 401:
                raise

    async def _persist(self, ask: Ask, token: str | None) -> Answer:
        """Send a request, and again while that is safe and useful, until patience ends."""
        patience = Patience(ask, self._patience_s)
        retrying = tenacity.AsyncRetrying(
            retry=patience.retry,
            wait=patience.wait,
            stop=patience.stop,
            before_sleep=self._tell,
            sleep=asleep,
            reraise=True,
        )
        try:
            return await retrying(self._once, ask, token)
        except Again as again:
            raise again.error from again.error.__cause__

    def _tell(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if self._on_retry and isinstance(error, Again):
            self._on_retry(error.error, state.upcoming_sleep)

    async def _once(self, ask: Ask, token: str | None) -> Answer:
        """One request and its answer; Again for what may pass."""
        try:
            request = self._http.build_request(
                ask.method, ask.path, json=ask.body, content=ask.content, headers=ask.all_headers(token)
            )
            if ask.content is not None and ask.on_sent is not None:
                request.stream = exchange.Watched(ask.content, ask.on_sent)
            answer = await self._http.send(request, stream=True)
            try:
                content = await self._body(answer, ask.cut)
            finally:
                await answer.aclose()
        except httpx.HTTPError as error:
            raise exchange.failure(error, server=self.url, timeout_s=self._timeout_s) from error
        return exchange.judge(ask, answer, content, server=self.url)

    async def _body(self, answer: httpx.Response, cut: int | None) -> bytes:
        """The answer's body, as long as limit and deadline allow."""
        end, content = time.monotonic() + self._timeout_s, bytearray()
        async for chunk in answer.aiter_bytes():
            content += chunk
            if cut is not None and len(content) >= cut:
                return bytes(content[:cut])
            if len(content) > exchange.ANSWER_LIMIT:
                raise exchange.too_much(self.url)
            if time.monotonic() > end:
                raise exchange.too_slow(self.url, self._timeout_s)
        return bytes(content)
