"""The sandbox the end-to-end tests share: real parts and our programs, with short tickets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from hipercow_slurm.testing.sandbox import Sandbox
    from hipercow_slurm.testing.story import Operator

TICKET_LIFE_S = 60
RENEW_LIFE_S = 1800
SLURM = os.environ.get("HIPERCOW_SLURM_TEST_SLURM") or None


@pytest.fixture(scope="session")
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """One sandbox for the whole run: tickets of 60 s, renewable for 30 min.

    HIPERCOW_SLURM_TEST_SLURM names another Slurm than this machine's (tests/acceptance/test_slurm_versions.py).
    """
    from hipercow_slurm.testing.sandbox import Sandbox

    with Sandbox(ticket_life=f"{TICKET_LIFE_S}s", renew_life=f"{RENEW_LIFE_S}s", slurm=SLURM) as sb:
        failed_before = request.session.testsfailed
        yield sb
        if request.session.testsfailed > failed_before:
            print(sb.tail_logs())
        no_password_anywhere(sb)


@pytest.fixture(scope="module")
def operator(sandbox: Sandbox) -> Operator:
    """root on the cluster's machines, of whichever sandbox the module has."""
    from hipercow_slurm.testing.story import Operator

    return Operator(sandbox)


def no_password_anywhere(sb: Sandbox) -> None:
    """After all tests of a run: nobody's password is in a log, a database, or in the memory of our programs.

    Of the API's memory nobody can promise it (freed memory is overwritten when it is used again), so there it is said
    and not asserted; ``tests/kdc/test_api_abuse.py`` bounds it.
    """
    import canary

    passwords = list(sb.passwords.values())
    found = canary.in_files(sb, passwords)
    assert not found, f"after the run a password is in {found}"
    for pid, name in canary.processes(sb).items():
        seen = canary.in_memory(pid, [password.encode() for password in passwords])
        assert not seen or name == "api", f"after the run a password is in the memory of {name}"
        if seen:
            print(f"after the run {len(seen)} passwords are in freed memory of {name}, process {pid}")


@pytest.fixture(autouse=True)
def sandbox_is_whole(request: pytest.FixtureRequest) -> Iterator[None]:
    """After a test that used the sandbox every service runs again: an outage stays in its own test."""
    yield
    if "sandbox" in request.fixturenames:
        sb: Sandbox = request.getfixturevalue("sandbox")
        dead = [row for row in sb.status() if row["state"] != "running"]
        logs = {row["name"]: sb.service(row["name"]).log()[-4000:] for row in dead}
        for name in logs:
            sb.service(name).start()
        assert not dead, f"the test left these services down: {dead}\n" + "\n".join(logs.values())
