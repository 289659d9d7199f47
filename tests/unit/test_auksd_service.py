"""The cache's decisions: roles, what is taken, what replaces what, field sizes; and accounts."""

import asyncio
import itertools
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hipercow_slurm.auksd import accounts, deciding, service
from hipercow_slurm.auksd.accounts import Accounts
from hipercow_slurm.auksd.acl import Role
from hipercow_slurm.auksd.deciding import Requester
from hipercow_slurm.auksd.workers import Workers
from hipercow_slurm.errors import AccessError, CredentialError, Error, RequestError, UnavailableError
from hipercow_slurm.store.base import Entry
from hipercow_slurm.values import KrbCred, TicketTimes

OWN, OTHER = "alice@R", "bob@R"
# The table of the protocol notes, section 8: (verb, owner) -> roles that may
TABLE = {
    ("add", OWN): {"guest", "user", "admin"},
    ("add", OTHER): {"admin"},
    ("get", OWN): {"user", "admin", "node"},  # a node's job is looked for before: see test_auksd_node.py
    ("get", OTHER): {"admin", "node"},
    ("remove", OWN): {"user", "admin"},
    ("remove", OTHER): {"admin"},
    ("dump", None): {"admin"},
}


@pytest.mark.parametrize(("verb", "owner", "role"), [(*key, role) for key, role in itertools.product(TABLE, Role)])
def test_who_may_what(verb, owner, role):
    who = Requester(OWN, role, "10.0.0.1")
    if role.value in TABLE[verb, owner]:
        deciding.check_may(who, verb, owner)
    else:
        with pytest.raises(AccessError):
            deciding.check_may(who, verb, owner)


def test_names_are_compared_whole():
    for near in ("alice@R2", "Alice@R", "alice", "alice@R ", ""):
        with pytest.raises(AccessError):
            deciding.check_may(Requester(OWN, Role.USER, ""), "get", near)


def cred(client="alice@R", endtime=2000, addressless=True):
    return KrbCred(b"", client, TicketTimes(1000, endtime, 3000), addressless=addressless)


@pytest.mark.parametrize(
    ("bad", "family"),
    [
        (cred(endtime=1500), CredentialError),
        (cred(endtime=1499), CredentialError),
        (cred(addressless=False), CredentialError),
        (cred(client="x" * 126 + "@R"), RequestError),
        (cred(client="ä" * 63 + "@R"), RequestError),
    ],
)
def test_useless_credentials(bad, family):
    with pytest.raises(family):
        deciding.check_cred(bad, 1500)


def test_usable_credentials():
    deciding.check_cred(cred(endtime=1501), 1500)
    deciding.check_cred(cred(client="x" * 125 + "@R"), 1500)
    deciding.check_cred(cred(endtime=2**32 - 1), 2**31 + 5)


def entry(endtime, renew_till):
    return Entry(7, "alice@R", TicketTimes(0, endtime, renew_till))


@pytest.mark.parametrize(
    ("old", "new", "wins"),
    [
        (None, (2000, 0), True),
        ((2000, 3000), (2000, 3000), True),
        ((2000, 3000), (2001, 3000), True),
        ((2000, 3000), (1999, 3000), False),
        ((2000, 3000), (1500, 3001), True),
        ((2000, 3000), (9000, 2999), False),
        ((2000, 3000), (9000, 0), False),
        ((999, 3000), (1500, 0), True),  # what has expired keeps nobody out
        ((1000, 3000), (1500, 0), True),
        ((1001, 3000), (1500, 0), False),
    ],
)
def test_replacement(old, new, wins):
    assert deciding.replaces(entry(*old) if old else None, entry(*new), now=1000) is wins


@given(st.integers(1, 32768))
def test_field_sizes(length):
    assert length <= service.slack(length) <= 32768
    assert service.slack(length) == 32768 or service.slack(length) >= length + 512


class Lookup:
    """Counts what is asked; "slow" waits to be released."""

    def __init__(self):
        self.asked = []
        self.release = threading.Event()

    def __call__(self, principal):
        self.asked.append(principal)
        if principal == "slow@R":
            self.release.wait(5)
        if principal == "none@R":
            raise AccessError("no such account", code="no-such-user")
        return 7


@pytest.fixture
def lookup():
    return Lookup()


@pytest.fixture
def workers():
    workers = Workers(2, "test")
    yield workers
    workers.stop()


async def test_accounts_are_remembered_for_a_while(lookup, workers):
    now = [0.0]
    known = Accounts(workers, lookup, clock=lambda: now[0])
    assert [await known.uid("alice@R") for _ in range(3)] == [7, 7, 7]
    assert lookup.asked == ["alice@R"]
    now[0] += accounts.KNOWN_S + 1
    await known.uid("alice@R")
    assert lookup.asked == ["alice@R"] * 2
    for _ in range(2):
        with pytest.raises(AccessError):
            await known.uid("none@R")
    assert lookup.asked.count("none@R") == 1
    now[0] += accounts.UNKNOWN_S + 1
    with pytest.raises(AccessError):
        await known.uid("none@R")
    assert lookup.asked.count("none@R") == 2


async def test_one_lookup_for_a_hundred_waiters_and_a_deadline(lookup, workers, monkeypatch):
    monkeypatch.setattr(accounts, "DEADLINE_S", 0.2)
    known = Accounts(workers, lookup)
    began = time.monotonic()
    waiting = [asyncio.create_task(known.uid("slow@R")) for _ in range(100)]
    assert await known.uid("alice@R") == 7, "others do not wait for a slow one"
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert {(type(answer), answer.code) for answer in answers} == {(UnavailableError, "accounts-slow")}
    assert 0.1 < time.monotonic() - began < 2
    assert lookup.asked.count("slow@R") == 1
    lookup.release.set()
    assert await known.uid("slow@R") == 7


async def test_workers_give_back_results_and_errors_and_do_not_hold_up_the_end(workers):
    assert await workers.run(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await workers.run(divmod, 7, 0)
    with pytest.raises(Error):
        await workers.run(Lookup(), "none@R")
    assert all(thread.daemon for thread in threading.enumerate() if thread.name.startswith("test-"))
