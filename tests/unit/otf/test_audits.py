"""When audits are due, what they say, and how they raise a error_law."""

import numpy as np
import pytest
from scipy import stats

from bayes_mlff.core.errors import RunDirectoryError
from bayes_mlff.ensemble import error_law
from bayes_mlff.otf import audits
from bayes_mlff.otf.audits import Audit, Clock, Score, draw, evidence, kept_up, learn, read, since_raise, statement


def steps_of(seed, mean, until):
    clock, found = draw(seed, 0, 0, mean), []
    while clock.due < until:
        found.append(clock.due)
        clock = kept_up(clock, seed, clock.due, mean)
    return found


def test_waiting_times_are_geometric_and_fixed_by_the_seed():
    steps = steps_of(3, 50.0, 200_000)
    assert steps == steps_of(3, 50.0, 200_000) != steps_of(4, 50.0, 200_000)
    gaps = np.diff([0, *steps])
    assert gaps.min() >= 1
    assert gaps.mean() == pytest.approx(50.0, rel=0.06)
    # 4 000 gaps against the geometric law: at this significance a sound generator fails once in 10 000 seeds
    edges = np.array([0, 10, 25, 50, 100, 200, np.inf])
    seen = np.histogram(gaps, edges + 0.5)[0]
    law = np.diff(stats.geom.cdf(edges, 1 / 50.0)) * gaps.size
    assert stats.chisquare(seen, law).pvalue > 1e-4


def test_no_audits_and_changed_intervals():
    assert draw(0, 0, 0, 0.0).due == 0
    clock = draw(0, 0, 0, 1000.0)
    assert kept_up(clock, 0, clock.due - 1, 1000.0) == clock
    changed = kept_up(clock, 0, 5, 10.0)
    assert changed.mean_steps == 10.0 and changed.due > 5
    assert kept_up(changed, 0, 7, 0.0) == Clock(changed.drawn, 0, 0.0)
    assert kept_up(Clock(3, 0, 0.0), 0, 7, 0.0) == Clock(3, 0, 0.0)
    assert kept_up(Clock(3, 0, 0.0), 0, 7, 20.0).due > 7


def test_a_run_out_clock_goes_on_from_where_it_is_asked():
    clock = draw(1, 0, 0, 30.0)
    late = kept_up(clock, 1, clock.due + 11, 30.0)
    assert late.due > clock.due + 11 and late.drawn == clock.drawn + 1


def test_evidence_is_the_bayes_factor_by_hand():
    w = [0.3, 4.0]
    tau = np.array(audits.WIDENINGS)
    ratio = [stats.norm.pdf(x, scale=tau) / stats.norm.pdf(x) for x in w]
    by_hand = np.mean(ratio[0] * ratio[1]) / 2 + np.mean(ratio[1]) / 6 + 1 / 3
    found = evidence(w)
    assert found.log_bayes_factor == pytest.approx(np.log(by_hand))
    assert found.start == (0 if np.mean(ratio[0] * ratio[1]) / 2 > np.mean(ratio[1]) / 6 else 1)


def test_evidence_has_mean_one_where_the_calibration_is_right():
    """One factor by quadrature over the half-normal law of a score."""
    grid = np.linspace(0.0, 80.0, 8_001)  # far out the density is nearly nothing, but not its product with the factor
    weighted = [evidence([w]).log_bayes_factor + stats.norm.logpdf(w) for w in grid]
    assert 2 * np.trapezoid(np.exp(weighted), grid) == pytest.approx(1.0, abs=1e-6)


def test_a_change_is_found_where_it_happened():
    rng = np.random.default_rng(0)
    w = np.concatenate([np.abs(rng.normal(size=40)), 5.0 * np.abs(rng.normal(size=6))])
    found = evidence(w)
    assert found.log_bayes_factor > np.log(100.0) and 38 <= found.start <= 42


def test_huge_errors_stay_finite():
    state = error_law.init()
    assert np.isfinite(error_law.normal_score(state, 1e6, 1e-6))
    assert np.isfinite(evidence([37.0] * 200).log_bayes_factor)


def test_triggered_labels_only_update():
    state = error_law.init()
    outcome = learn(state, (Score(1.0, 1.0, 1.0),), 5.0, 0.01, audited=False)
    assert outcome.calibration == error_law.update(state, 5.0, 0.01)
    assert outcome.scores == (Score(1.0, 1.0, 1.0),) and not outcome.raised


@pytest.mark.parametrize("floor", [0.0, 0.005])
def test_an_alarm_restarts_the_posterior_from_the_suspicious_audits_and_forgets_them(floor):
    state = error_law.init(3.0, 10.0, floor=floor)
    for _ in range(30):
        state = error_law.update(state, 0.01, 0.01)
    scores = tuple(Score(0.01, 0.01, 0.8) for _ in range(5))
    outcome = learn(state, scores, 0.2, 0.01, audited=True)
    assert outcome.raised and outcome.scores == () and outcome.evidence.start == 5
    assert outcome.calibration == error_law.restart(state, [(0.2, 0.01, 1.0)])
    narrow = error_law.interval(error_law.update(state, 0.2, 0.01), 0.01)
    assert error_law.interval(outcome.calibration, 0.01) > 2 * narrow


@pytest.mark.parametrize("floor", [0.0, 0.005])
def test_a_raise_never_narrows(floor):
    state = error_law.init(3.0, 10.0, floor=floor)
    for _ in range(3):
        state = error_law.update(state, 1.0, 0.01)
    state = state._replace(each=state.each._replace(a=30.0))  # a prior so strong that to forget would narrow
    outcome = learn(state, (), 2.0, 0.01, audited=True, false_alarm=0.5)
    updated = error_law.update(state, 2.0, 0.01)
    assert error_law.interval(outcome.calibration, 0.01) >= error_law.interval(updated, 0.01)


def audit(step, error, *, asked=False, pit=0.5, raised=False):
    return Audit(step, error, asked, 0.05, pit, raised)


def test_the_statement_counts_trusted_audits_only():
    found = [audit(1, 0.01), audit(2, -0.06), audit(3, 0.2, asked=True), audit(4, 0.0, pit=0.999)]
    said = statement(found)
    assert (said.count, said.trusted, said.above) == (4, 3, 1)
    assert said.share_above.observed == pytest.approx(1 / 3) and said.share_above.upper > 0.8
    np.testing.assert_array_equal(said.coverage.observed, [0.75] * 4)
    assert statement([]).coverage is None and statement([]).share_above is None


def test_only_audits_after_the_last_raise_count_for_the_present():
    found = [audit(1, 0.0, raised=True), audit(2, 0.0), audit(3, 0.0, raised=True), audit(4, 0.0)]
    assert [a.step for a in since_raise(found)] == [4]
    assert since_raise(found[:1]) == []


def test_events_are_read_once_and_in_order():
    line = {"event": "audit", "step": 9, "error_ev": 0.1, "sigma_ev": 0.01, "sigma_crit_ev": 0.02,
            "threshold_ev": 0.05, "pit": 0.4, "raised": False}  # fmt: skip
    events = [line, {"event": "chunk"}, {**line, "step": 4}, {**line, "error_ev": 0.2}]
    assert [(a.step, a.error) for a in read(events)] == [(4, 0.1), (9, 0.2)]
    with pytest.raises(RunDirectoryError, match="pit"):
        read([{k: v for k, v in line.items() if k != "pit"}])
