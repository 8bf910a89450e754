"""Labels of an hour, with a clock that does not make the test wait."""

import pytest

from bayes_mlff.campaign import pace


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(pace.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


def begun(per_hour, count, clock):
    limit, times, looked = pace.Pace(per_hour), [], []
    for _ in range(count):
        limit.wait(lambda: looked.append(clock[0]))
        times.append(clock[0])
    return times, looked


def test_without_a_limit_nothing_waits(clock):
    assert begun(None, 1000, clock) == ([0.0] * 1000, [])


def test_no_hour_has_more_than_the_limit(clock):
    times, looked = begun(3, 10, clock)
    assert times[:3] == [0.0] * 3 and times[3] == pytest.approx(3600.0, abs=0.5)
    assert all(later - first >= 3600.0 for first, later in zip(times, times[3:], strict=False))
    assert len(looked) > 1000, "the campaign may be ended meanwhile"


def test_less_than_one_an_hour(clock):
    times, _ = begun(0.5, 3, clock)
    assert times == pytest.approx([0.0, 7200.0, 14400.0], abs=1.0)
