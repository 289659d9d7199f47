"""Failed logins run out, come back with time, and never lock out somebody else for long."""

import pytest

from hipercow_slurm.api.config import Limits
from hipercow_slurm.api.problems import ThrottledError
from hipercow_slurm.api.throttle import Buckets, LoginThrottle, network_of

LIMITS = Limits(failures_per_user=3, failure_user_refill_s=60.0, failures_per_address=5, failure_address_refill_s=10.0)
ALICE, BOB = "alice@R", "bob@R"


def fail(throttle, principal, address, now):
    throttle.charge(principal, address, now)


def test_user_is_stopped_after_the_burst_and_told_when_to_come_back():
    throttle = LoginThrottle(LIMITS)
    for _ in range(3):
        fail(throttle, ALICE, "192.0.2.1", 0.0)
    with pytest.raises(ThrottledError) as caught:
        throttle.charge(ALICE, "192.0.2.2", 10.0)
    assert caught.value.code == "too-many-failures"
    assert caught.value.retry_after_s == pytest.approx(50.0)
    throttle.charge(ALICE, "192.0.2.2", 61.0)


def test_address_is_stopped_whoever_it_tries():
    throttle = LoginThrottle(LIMITS)
    for number in range(5):
        fail(throttle, f"user{number}@R", "192.0.2.1", 0.0)
    with pytest.raises(ThrottledError):
        throttle.charge("another@R", "192.0.2.1", 0.0)
    throttle.charge("another@R", "192.0.2.9", 0.0)


def test_a_refused_try_costs_nothing():
    throttle = LoginThrottle(LIMITS)
    for _ in range(3):
        fail(throttle, ALICE, "192.0.2.1", 0.0)
    for _ in range(50):  # alice's bucket is empty: none of these may cost the address its tokens
        with pytest.raises(ThrottledError):
            throttle.charge(ALICE, "192.0.2.1", 0.0)
    throttle.charge(BOB, "192.0.2.1", 0.0)


def test_success_fills_the_users_bucket():
    throttle = LoginThrottle(LIMITS)
    for _ in range(2):
        fail(throttle, ALICE, "192.0.2.1", 0.0)
    throttle.charge(ALICE, "192.0.2.1", 0.0)
    throttle.succeeded(ALICE, "192.0.2.1", 0.0)
    for _ in range(3):
        fail(throttle, ALICE, "192.0.2.1", 1.0)


def test_undecided_gives_back():
    throttle = LoginThrottle(LIMITS)
    for _ in range(20):
        throttle.charge(ALICE, "192.0.2.1", 0.0)
        throttle.undecided(ALICE, "192.0.2.1", 0.0)
    throttle.charge(ALICE, "192.0.2.1", 0.0)


def test_a_stranger_cannot_lock_alice_out_of_where_she_usually_is():
    throttle = LoginThrottle(LIMITS)
    throttle.charge(ALICE, "192.0.2.1", 0.0)
    throttle.succeeded(ALICE, "192.0.2.1", 0.0)
    for at in range(400):
        try:
            throttle.charge(ALICE, f"198.51.100.{at % 250}", float(at))
        except ThrottledError:
            pass
    with pytest.raises(ThrottledError):
        throttle.charge(ALICE, "203.0.113.1", 400.0)
    throttle.charge(ALICE, "192.0.2.1", 400.0)


def test_memory_is_bounded():
    buckets = Buckets(3, 60.0)
    for number in range(12_000):
        buckets.take(number, 0.0)
    assert len(buckets._levels) == 10_000


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
