"""Failed logins run out, come back with time, and never lock out somebody else for long."""

import asyncio
import contextlib

import msgspec
import pytest

from hipercow_slurm.api import throttle_db
from hipercow_slurm.api.addresses import network_of
from hipercow_slurm.api.config import Limits
from hipercow_slurm.api.database import opened
from hipercow_slurm.api.problems import ThrottledError
from hipercow_slurm.api.throttle import LoginThrottle, full_after_s

# One strange address has 3 tries for a user, a known one 4; all strange ones together 4.
LIMITS = Limits(failures_per_user=5, failure_user_window_s=60.0, failures_per_address=5, failure_address_refill_s=10.0)
ALICE, BOB = "alice@R", "bob@R"


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def database(tmp_path):
    async with opened(str(tmp_path / "api.sqlite")) as database:
        yield database


@pytest.fixture
def throttle(database, clock):
    return LoginThrottle(LIMITS, database, clock=clock)


async def attempt(throttle, principal, address, outcome="failed"):
    await throttle.settle(await throttle.charge(principal, address), outcome)


async def test_one_address_is_stopped_and_told_when_to_come_back(throttle, clock):
    for _ in range(3):
        await attempt(throttle, ALICE, "192.0.2.1")
    clock.now = 10.0
    with pytest.raises(ThrottledError) as caught:
        await throttle.charge(ALICE, "192.0.2.1")
    assert caught.value.code == "too-many-failures"
    assert caught.value.retry_after_s == pytest.approx(50.0)
    await attempt(throttle, ALICE, "192.0.2.2", "undecided")  # elsewhere there is one left
    clock.now = 61.0
    await throttle.charge(ALICE, "192.0.2.1")


async def test_all_strange_addresses_together_leave_the_last_try_to_known_ones(throttle):
    await attempt(throttle, ALICE, "192.0.2.1", "succeeded")
    for number in range(4):
        await attempt(throttle, ALICE, f"198.51.100.{number}")
    for number in range(4, 8):
        with pytest.raises(ThrottledError):
            await throttle.charge(ALICE, f"198.51.100.{number}")
    await attempt(throttle, ALICE, "192.0.2.1")
    with pytest.raises(ThrottledError):
        await throttle.charge(ALICE, "192.0.2.1")


class Kdc:
    """How MIT's KDC and Active Directory count: every failure adds one; a pause or a right password forgets them."""

    def __init__(self, window_s):
        self.window_s, self.failures, self.last, self.most = window_s, 0, 0.0, 0

    def failed(self, now):
        self.failures = 1 if now - self.last > self.window_s else self.failures + 1
        self.last, self.most = now, max(self.most, self.failures)


@pytest.mark.parametrize("every_s", [1, 7, 20, 29, 31, 45, 59, 60, 61])
async def test_a_patient_guesser_does_not_fill_the_kdcs_count_either(database, clock, every_s):
    """Would have caught: one token each minute, which keeps the KDC's count going until it locks the account."""
    limits, kdc = Limits(failures_per_user=4, failure_user_window_s=60.0), Kdc(60.0)
    throttle = LoginThrottle(limits, database, clock=clock)
    for number in range(120):
        clock.now += every_s
        with contextlib.suppress(ThrottledError):
            charge = await throttle.charge(ALICE, f"198.51.100.{number}")  # never twice from the same address
            kdc.failed(clock.now)
            await throttle.settle(charge, "failed")
    assert 1 <= kdc.most <= 3, kdc.most


async def test_the_defaults_stay_below_a_lockout_at_five():
    assert Limits().failures_per_user < 5 and Limits().failure_user_window_s >= 1800


async def test_address_is_stopped_whoever_it_tries(throttle):
    for number in range(5):
        await attempt(throttle, f"user{number}@R", "192.0.2.1")
    with pytest.raises(ThrottledError):
        await throttle.charge("another@R", "192.0.2.1")
    with pytest.raises(ThrottledError):
        await throttle.charge(None, "192.0.2.1")
    await throttle.charge("another@R", "192.0.2.9")


async def test_who_burns_an_address_keeps_out_nobody_who_is_known_there(throttle, clock):
    """Would have caught: one hostile user of a login node, whose guesses kept out all others while they went on."""
    for user in (ALICE, BOB):
        await attempt(throttle, user, "192.0.2.1", "succeeded")
    judged = {"others'": 0, "his own": 0}
    for at in range(400):
        clock.now = float(at)
        with contextlib.suppress(ThrottledError):
            await attempt(throttle, None if at % 2 else f"user{at}@R", "192.0.2.1")
            judged["others'"] += 1
        with contextlib.suppress(ThrottledError):
            await attempt(throttle, BOB, "192.0.2.1")
            judged["his own"] += 1
            await attempt(throttle, BOB, "192.0.2.1", "succeeded")
        if at % 40 == 39:
            await attempt(throttle, ALICE, "192.0.2.1", "succeeded")
    assert 40 <= judged["others'"] <= 46, (judged, "five, and one more every ten seconds")
    assert 40 <= judged["his own"] <= 46, (judged, "the same")
    with pytest.raises(ThrottledError):
        await throttle.charge("carol@R", "192.0.2.1")


async def test_a_refused_try_costs_nothing(throttle):
    for _ in range(3):
        await attempt(throttle, ALICE, "192.0.2.1")
    for _ in range(50):  # alice's bucket is empty: none of these may cost the address its tokens
        with pytest.raises(ThrottledError):
            await throttle.charge(ALICE, "192.0.2.1")
    await throttle.charge(BOB, "192.0.2.1")


async def test_success_fills_the_users_bucket(throttle):
    for _ in range(2):
        await attempt(throttle, ALICE, "192.0.2.1")
    await attempt(throttle, ALICE, "192.0.2.1", "succeeded")
    for _ in range(3):
        await attempt(throttle, ALICE, "192.0.2.1")


async def test_a_success_does_not_forgive_guesses_that_are_under_way(throttle):
    """Would have caught: guesses made at the same moment as alice's own logins, each for nothing."""
    guesses = [await throttle.charge(ALICE, f"198.51.100.{number}") for number in range(3)]
    await attempt(throttle, ALICE, "192.0.2.1", "succeeded")
    for guess in guesses:
        await throttle.settle(guess, "failed")
    await attempt(throttle, ALICE, "198.51.100.9")
    with pytest.raises(ThrottledError):
        await throttle.charge(ALICE, "198.51.100.10")


async def test_undecided_gives_back(throttle):
    for _ in range(20):
        await attempt(throttle, ALICE, "192.0.2.1", "undecided")
        await attempt(throttle, None, "192.0.2.1", "undecided")
    await throttle.charge(ALICE, "192.0.2.1")


async def test_a_stranger_cannot_lock_alice_out_of_where_she_usually_is(throttle, clock):
    await attempt(throttle, ALICE, "192.0.2.1", "succeeded")
    for at in range(400):
        clock.now = float(at)
        try:
            await attempt(throttle, ALICE, f"198.51.100.{at % 250}")
        except ThrottledError:
            pass
    clock.now = 400.0
    with pytest.raises(ThrottledError):
        await throttle.charge(ALICE, "203.0.113.1")
    await throttle.charge(ALICE, "192.0.2.1")


async def judged(throttle, right, asked):
    """One login whose verdict takes a moment."""
    charge = await throttle.charge(ALICE, "192.0.2.1")
    asked.append(right)
    await asyncio.sleep(0.05)
    await throttle.settle(charge, "succeeded" if right else "failed")


async def test_many_right_passwords_at_once_all_pass(throttle):
    """Would have caught: of 16 correct logins of one user at once, 15 were told to wait a minute."""
    asked = []
    await asyncio.gather(*(judged(throttle, True, asked) for _ in range(16)))
    assert asked == [True] * 16


async def test_nobody_who_waits_is_overtaken(throttle):
    """Would have caught: one login in twenty that took a second, as newcomers found each token first."""
    passed: list[int] = []
    full = asyncio.Event()

    async def login(number: int) -> None:
        charge = await throttle.charge("alice@R", "192.0.2.1")
        passed.append(number)
        full.set()
        await asyncio.sleep(0.01)  # the KDC
        await throttle.settle(charge, "succeeded")

    waiting = [asyncio.create_task(login(number)) for number in range(12)]
    await full.wait()
    for number in range(12, 30):  # they come when some have been waiting
        waiting.append(asyncio.create_task(login(number)))
        await asyncio.sleep(0.005)
    await asyncio.gather(*waiting)
    late = [at - number for at, number in enumerate(passed)]
    assert max(late) <= 2, passed


async def test_as_many_wait_as_may_and_those_who_came_first(database, clock):
    """Would have caught: a newcomer in the place of one who waits and just looks, who is then sent away."""
    throttle = LoginThrottle(msgspec.structs.replace(LIMITS, login_queue=4), database, clock=clock)
    tried = [await throttle.charge(ALICE, "192.0.2.1") for _ in range(3)]
    came = []
    for _ in range(12):
        came.append(asyncio.create_task(throttle.charge(ALICE, "192.0.2.1")))
        await asyncio.sleep(0.03)
    sent_away = [task for task in came if task.done()]
    assert sent_away == came[4:], [task.done() for task in came]
    assert {task.exception().code for task in sent_away} == {"too-many-logins"}
    for charge in tried:
        await throttle.settle(charge, "succeeded")
    for task in came[:4]:
        await throttle.settle(await asyncio.wait_for(task, 5), "succeeded")


async def test_a_verdict_of_this_process_is_seen_at_once(throttle, monkeypatch):
    """Would have caught: the next in line asleep while the token lies there."""
    monkeypatch.setattr("hipercow_slurm.api.throttle._FIRST_PAUSE_S", 10.0)
    tried = [await throttle.charge(ALICE, "192.0.2.1") for _ in range(3)]
    line = [asyncio.create_task(throttle.charge(ALICE, "192.0.2.1")) for _ in range(3)]
    await asyncio.sleep(0.1)
    assert not any(task.done() for task in line)
    for charge in tried:
        await throttle.settle(charge, "succeeded")
    for task in line:
        await throttle.settle(await asyncio.wait_for(task, 5), "succeeded")


async def test_a_crowd_at_another_address_is_not_waited_for(throttle):
    """Would have caught: a queue for the user, in which a guesser's tries stand before the user's own."""
    guesses = [await throttle.charge("alice@R", "198.51.100.1")]
    crowd = [asyncio.create_task(throttle.charge("alice@R", "198.51.100.1")) for _ in range(10)]
    await asyncio.sleep(0.1)
    await throttle.settle(await asyncio.wait_for(throttle.charge("alice@R", "192.0.2.1"), 5), "succeeded")
    for task in crowd:
        task.cancel()
    await asyncio.gather(*crowd, return_exceptions=True)
    for guess in guesses:
        await throttle.settle(guess, "undecided")


async def test_many_wrong_passwords_at_once_are_as_few_as_one_by_one(throttle):
    """Would have caught: a guesser who gets more guesses by making them at the same time."""
    asked = []
    done = await asyncio.gather(*(judged(throttle, False, asked) for _ in range(16)), return_exceptions=True)
    assert len(asked) == 3, "the KDC was asked more often than the bucket allows"
    assert [error.code for error in done if error is not None] == ["too-many-failures"] * 13


async def test_what_a_killed_process_never_settled_is_not_waited_for_and_counts(database, clock):
    throttle = LoginThrottle(Limits(failures_per_user=5), database, clock=clock)
    for _ in range(3):
        await throttle.charge(ALICE, "192.0.2.1")
    clock.now = throttle_db.UNDECIDED_S + 1
    with pytest.raises(ThrottledError) as caught:
        async with asyncio.timeout(5):
            await throttle.charge(ALICE, "192.0.2.1")
    assert caught.value.retry_after_s == pytest.approx(1800 - clock.now), "the KDC may have counted it"


async def test_what_is_full_again_is_forgotten(throttle, database, clock):
    await attempt(throttle, ALICE, "192.0.2.1")
    await attempt(throttle, BOB, "192.0.2.1", "succeeded")
    assert await database.run(throttle_db.clean(50.0, full_after_s(LIMITS))) == 0
    gone = await database.run(throttle_db.clean(200.0, full_after_s(LIMITS)))
    assert gone == 5, "two users, each also at the address, and the address"
    assert await database.run(throttle_db.is_known(BOB, "192.0.2.1"))


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unknown", "unknown"),
    ],
)
def test_network(address, network):
    assert network_of(address) == network
