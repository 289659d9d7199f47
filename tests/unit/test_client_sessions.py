"""Where a client's session comes from, and that a program on a laptop lives through the end of one."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import keyring
import keyring.backend
import pytest

from fake_api import PASSWORD, FakeApi, give, lose, problem, wanted
from hipercow_slurm import AsyncClient, Client
from hipercow_slurm.client import keys, profile
from hipercow_slurm.client.problems import AnswersWantedError
from hipercow_slurm.client.profile import Saved
from hipercow_slurm.errors import ConfigError, CredentialError, Error

LOGIN = ("POST", "/v1/sessions")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a session."""
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    for name in ("HIPERCOW_SLURM_URL", "HIPERCOW_SLURM_CA", "HIPERCOW_SLURM_CLUSTER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(profile, "SITE", tmp_path / "site.toml")
    return tmp_path


@pytest.fixture(scope="module")
def server() -> Iterator[FakeApi]:
    with closing(FakeApi()) as api:
        yield api


@pytest.fixture
def api(server: FakeApi) -> FakeApi:
    server.reset()
    return server


def passwords(*given: str | None) -> tuple[list[tuple[str, str]], Callable[[str, str], str | None]]:
    """A callback that gives these passwords one after the other, and what it was asked."""
    asked: list[tuple[str, str]] = []
    left = list(given)

    def ask(username: str, url: str) -> str | None:
        asked.append((username, url))
        return left.pop(0)

    return asked, ask


def failing(ask: Callable[[], object]) -> Error:
    with pytest.raises(Error) as caught:
        ask()
    return caught.value


def test_the_session_that_login_saved_is_used_and_a_new_one_is_saved_for_the_next(api: FakeApi) -> None:
    """The program ends, or its session does: the next one goes on without a question."""
    asked, ask = passwords(PASSWORD)
    with Client(api.url, username="alice", password=ask) as client:
        assert client.jobs() == [] and asked == [("alice", api.url)]
    with Client(api.url) as client:
        assert client.jobs() == [], "the saved session was not found"
    with Client() as client:
        assert client.url == api.url and client.jobs() == [], "the last login says where the cluster is"
    stored = json.loads(profile.session_file().read_text())
    assert stored["token"] in api.tokens and PASSWORD not in json.dumps(stored)


def test_a_session_that_ends_is_begun_anew_and_the_submission_keeps_its_key(api: FakeApi) -> None:
    asked, ask = passwords(PASSWORD, PASSWORD)
    with Client(api.url, username="alice", password=ask) as client:
        client.jobs()
        api.tokens.clear()
        job = client.submit("true", idempotency_key="the-key")
        assert len(asked) == 2 and list(api.keys) == ["the-key"], (asked, api.keys)
        sent = api.seen("POST", "/v1/jobs")
        assert [headers["idempotency-key"] for headers, _ in sent] == ["the-key"] * 2
        assert client.job(job.job_id).state == "PENDING"


def test_a_session_that_another_program_began_meanwhile_is_taken(api: FakeApi) -> None:
    """Ten programs of one user, whose session ends: one login, not ten."""
    _, ask = passwords(PASSWORD)
    with Client(api.url, username="alice", password=ask) as client:
        client.jobs()
        api.tokens.clear()
        api.tokens["theirs"] = "alice"
        profile.save(Saved(api.url, None, "alice", None, "theirs"))
        client.jobs()
    assert len(api.seen(*LOGIN)) == 1


def test_threads_that_share_a_client_log_in_once(api: FakeApi) -> None:
    asked, ask = passwords(*[PASSWORD] * 8)
    with Client(api.url, username="alice", password=ask) as client, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: client.jobs(), range(8)))
    assert len(asked) == len(api.seen(*LOGIN)) == 1


def test_a_refused_password_is_not_tried_again(api: FakeApi) -> None:
    """A loop over jobs with a stale password in the keyring would lock the account."""
    asked, ask = passwords("stale", "stale", "stale")
    with Client(api.url, username="alice", password=ask) as client:
        assert failing(client.jobs).code == "login-failed"
        for _ in range(3):
            assert failing(client.jobs).code == "not-logged-in"
    assert len(asked) == len(api.seen(*LOGIN)) == 1


def test_nobody_knows_a_password(api: FakeApi) -> None:
    _, ask = passwords(None)
    for client in (Client(api.url), Client(api.url, password=ask)):
        with client:
            error = failing(client.jobs)
        assert (type(error), error.code, error.hint) == (CredentialError, "not-logged-in", "hipercow-slurm login")
    assert api.requests == []


def test_a_session_that_is_not_remembered_ends_with_the_client(api: FakeApi, home: Path) -> None:
    _, ask = passwords(PASSWORD)
    with Client(api.url, username="alice", password=ask, remember=False) as client:
        client.jobs()
        assert len(api.tokens) == 1
    assert api.tokens == {} and not list(home.rglob("session*"))


def test_a_given_token_is_nobody_elses_business(api: FakeApi, home: Path) -> None:
    """It is neither saved, nor ended, nor replaced by the session of somebody who logged in here."""
    api.tokens |= {"given": "alice", "saved": "bob"}
    profile.save(Saved(api.url, None, "bob", None, "saved"))
    with Client(api.url, token="given") as client:
        client.jobs()
        del api.tokens["given"]
        assert failing(client.jobs).status == 401
    assert api.tokens == {"saved": "bob"}


def test_another_users_session_will_not_do(api: FakeApi) -> None:
    api.tokens["saved"] = "bob"
    profile.save(Saved(api.url, None, "bob", None, "saved"))
    with Client(api.url, username="alice") as client:
        assert failing(client.jobs).code == "not-logged-in"
    with Client(api.url) as client:
        assert client.jobs() == []


def test_a_login_whose_answer_is_lost_is_not_repeated(api: FakeApi) -> None:
    api.answers[LOGIN] = [lose]
    _, ask = passwords(PASSWORD)
    with Client(api.url, username="alice", password=ask) as client:
        assert failing(client.jobs).code == "api-broke-off"
    assert len(api.seen(*LOGIN)) == 1


class MemoryKeyring(keyring.backend.KeyringBackend):
    """A system's keyring that is open."""

    priority = 1

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.kept[service, username]


@pytest.fixture
def chain() -> Iterator[MemoryKeyring]:
    before, mine = keyring.get_keyring(), MemoryKeyring()
    keyring.set_keyring(mine)
    yield mine
    keyring.set_keyring(before)


def test_the_keyring_is_asked_only_by_whoever_wants_that(api: FakeApi, chain: MemoryKeyring) -> None:
    keys.keep(api.url, "alice", PASSWORD)
    assert list(chain.kept) == [(f"hipercow-slurm {api.url}", "alice")]
    with Client(api.url, username="alice") as client:
        assert failing(client.jobs).code == "not-logged-in"
    with Client(api.url, username="alice", keyring=True) as client:
        assert client.jobs() == []
        api.tokens.clear()
        assert client.jobs() == []
    assert keys.forget(api.url, "alice") and not keys.forget(api.url, "alice")
    assert chain.kept == {}


def test_a_cluster_whose_keyring_is_configured(api: FakeApi, chain: MemoryKeyring) -> None:
    keys.keep(api.url, "alice", PASSWORD)
    config = profile.config_file()
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(f'[clusters.big]\nurl = "{api.url}"\nusername = "alice"\nkeyring = true\n')
    with Client(cluster="big") as client:
        assert client.jobs() == []
    assert profile.session_file("big").exists() and not profile.session_file().exists()


def test_a_system_without_a_keyring_says_so(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    from keyring.backends.fail import Keyring as NoKeyring

    before = keyring.get_keyring()
    keyring.set_keyring(NoKeyring())
    try:
        with Client(api.url, username="alice", keyring=True) as client:
            error = failing(client.jobs)
    finally:
        keyring.set_keyring(before)
    assert isinstance(error, ConfigError) and error.code == "no-keyring", error


def test_the_kdcs_questions_are_asked_in_turn_and_answered_together(api: FakeApi) -> None:
    api.answers[LOGIN] = [wanted(("Code\x1b", True)), wanted(("PIN", False))]
    asked: list[tuple[str, bool]] = []

    def answer(text: str, hidden: bool) -> str:
        asked.append((text, hidden))
        return f"to {text}"

    with Client(api.url, answer=answer) as client:
        assert client.login("alice", PASSWORD).localname == "alice"
    assert asked == [("Code", True), ("PIN", False)]
    bodies = [json.loads(body) for _, body in api.seen(*LOGIN)]
    assert [body.get("answers") for body in bodies] == [None, ["to Code"], ["to Code", "to PIN"]]


@pytest.mark.parametrize("answer", [None, lambda text, hidden: None])
def test_questions_that_nobody_answers(api: FakeApi, answer: Any) -> None:
    api.answers[LOGIN] = [wanted(("Code", True))]
    with Client(api.url, answer=answer) as client:
        error = failing(lambda: client.login("alice", PASSWORD))
    assert isinstance(error, AnswersWantedError) and error.prompts[0].text == "Code"
    assert len(api.seen(*LOGIN)) == 1


def test_questions_without_end_are_given_up(api: FakeApi) -> None:
    api.answers[LOGIN] = [wanted(("Code", True))] * 50
    with Client(api.url, answer=lambda text, hidden: "x") as client:
        assert failing(lambda: client.login("alice", PASSWORD)).code == "answers-wanted"
    assert len(api.seen(*LOGIN)) < 12


async def test_the_asynchronous_client_does_the_same(api: FakeApi) -> None:
    """It is the source of the blocking one; what is its own is how it waits, and that tasks log in once."""
    import asyncio

    asked, ask = passwords(PASSWORD, PASSWORD)
    async with AsyncClient(api.url, username="alice", password=ask) as client:
        await asyncio.gather(*(client.jobs() for _ in range(5)))
        assert len(asked) == 1
        api.answers["POST", "/v1/jobs"] = [lose, give(problem(503, "scheduler-full"))]
        job = await client.submit("echo hi", name="first")
        assert len(api.jobs) == 1 and job.name == "first"
        api.jobs[job.job_id].update(state="COMPLETED", exit_code=0)
        api.outputs[job.job_id, "stdout"] = b"hi\n"
        assert (await job.wait(poll_s=0.01)).ended and job.exit_status == 0
        assert await job.output() == "hi\n"
        assert [one.job_id for one in await client.jobs()] == [job.job_id]


def test_locks_are_not_shared_between_clients(api: FakeApi) -> None:
    """A client whose callback waits for a person must not stop another one."""
    asking, answered = threading.Event(), threading.Event()

    def slow(username: str, url: str) -> str:
        asking.set()
        answered.wait(10)
        return PASSWORD

    with Client(api.url, username="alice", password=slow, remember=False) as first:
        thread = threading.Thread(target=first.jobs)
        thread.start()
        assert asking.wait(10)
        with Client(api.url, username="alice", password=lambda *_: PASSWORD, remember=False) as second:
            assert second.jobs() == []
        answered.set()
        thread.join(10)
