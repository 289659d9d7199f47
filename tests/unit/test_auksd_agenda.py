"""When credentials come due: arithmetic, and the heap against a plain model."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hipercow_slurm.auksd.agenda import Act, Agenda, Plan, Timing, plan, plan_retry
from hipercow_slurm.values import TicketTimes

TIMING = Timing()
SPREAD = st.floats(-1, 1)


@st.composite
def renewable(draw):
    start = draw(st.integers(0, 2**31))
    life = draw(st.integers(2, 10**6))
    return TicketTimes(start, start + life, start + life + draw(st.integers(1, 10**7)))


@given(renewable(), SPREAD)
def test_renewed_at_about_half_its_life_and_never_late(times, spread):
    planned = plan(times, TIMING, spread)
    life = times.endtime - times.starttime
    assert planned.act is Act.RENEW
    assert times.starttime + 0.39 * life <= planned.at <= times.starttime + 0.61 * life
    assert planned.at <= times.endtime - min(TIMING.margin_s, life / 5) + 0.001


@pytest.mark.parametrize("renew_till", [0, 500, 1000])
def test_what_cannot_gain_is_dropped_at_its_end(renew_till):
    assert plan(TicketTimes(100, 1000, renew_till), TIMING, 0.3) == Plan(Act.DROP, 1000)


def test_sixty_seconds_and_ten_hours():
    assert plan(TicketTimes(0, 60, 1800), TIMING, 0.0).at == 30
    assert plan(TicketTimes(0, 60, 1800), TIMING, 1.0).at == 36
    assert plan(TicketTimes(0, 36000, 604800), TIMING, -1.0).at == 14400


def test_late_times_are_unsigned():
    times = TicketTimes(2**31 + 10, 2**31 + 110, 2**32 - 1)
    assert plan(times, TIMING, 0.0) == Plan(Act.RENEW, 2**31 + 60)


@given(renewable(), SPREAD, st.integers(1, 100), st.floats(0, 1))
def test_a_retry_is_later_than_now_and_before_the_end(times, spread, failures, part):
    now = times.starttime + part * (times.endtime - times.starttime)
    planned = plan_retry(times, TIMING, spread, failures=failures, now=now)
    if planned.act is Act.DROP:
        assert planned.at == times.endtime
        assert times.endtime - now <= 0.26
    else:
        assert now < planned.at < times.endtime
        assert planned.at - now <= TIMING.retry_max_s * 1.2


@pytest.mark.parametrize(("life", "tries"), [(60, (5, 40)), (3600, (30, 120)), (36000, (250, 500))])
def test_an_outage_is_retried_until_the_end(life, tries):
    """From half life on every try fails: not too many, not too few, and one right before the end."""
    times, now, made = TicketTimes(0, life, 10 * life), life / 2, 0
    while True:
        made += 1
        planned = plan_retry(times, TIMING, 0.0, failures=made, now=now)
        if planned.act is Act.DROP:
            break
        now = planned.at
    assert tries[0] <= made <= tries[1], made
    assert now > life - 1


@given(st.lists(st.tuples(st.integers(0, 5), st.one_of(st.none(), st.integers(0, 50)), st.integers(0, 50))))
def test_agenda_against_a_dict(steps):
    agenda, model = Agenda(), {}
    for uid, at, now in steps:
        if at is None:
            agenda.discard(uid)
            model.pop(uid, None)
        else:
            agenda.set(uid, Plan(Act.RENEW, at))
            model[uid] = at
        assert agenda.next_at() == min(model.values(), default=None)
        due = [uid for uid, _ in agenda.due(now)]
        assert sorted(due) == sorted(uid for uid, at in model.items() if at <= now)
        assert [model[uid] for uid in due] == sorted(model[uid] for uid in due)
        model = {uid: at for uid, at in model.items() if at > now}
        assert len(agenda) == len(model)


def test_many_replacements_do_not_grow_the_heap():
    agenda = Agenda()
    for number in range(20_000):
        agenda.set(number % 10, Plan(Act.RENEW, number))
    assert len(agenda._heap) < 2_000
    assert [uid for uid, _ in agenda.due(10**9)] == list(range(10))
