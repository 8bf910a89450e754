"""When a run counts as trained, and what is said if it does not."""

import numpy as np
import pytest

from bayes_mlff.data.label_notes import LabelNote
from bayes_mlff.otf.trigger_settings import ForceSettings
from bayes_mlff.report import verdict
from bayes_mlff.report.run_log import RunLog, Settings
from bayes_mlff.runs.thermo_log import ThermoSeries, TriggerSeries

STEPS = 20_000
"""10 ps."""


def record(step, reason="uncertain"):
    return LabelNote(step, 0.5 * step, reason, 1.0, 0.0, 0.0, None, None, None, ("C",))


def audit(step, *, error=0.01, pit=0.5, raised=False, sigma=0.005, **more):
    return {"event": "audit", "time": 0.0, "step": step, "error_ev": error, "sigma_ev": sigma, "sigma_crit_ev": 0.01,
            "threshold_ev": 0.02, "pit": pit, "raised": raised, **more}  # fmt: skip


def run(labels=(0, 5, 40, 300), events=None, refused=()):
    sound = [audit(1000 * i + 7, pit=(i + 0.5) / 19) for i in range(19)]
    none = np.zeros(0)
    return RunLog(
        Settings("x.xyz", 0.5, 10.0, "0.5 kcal/mol", 0.95, 500, 0, 0),
        [record(s, "initial" if s == 0 else "uncertain") for s in labels],
        np.arange(1, STEPS + 1),
        ThermoSeries(none, none, none, none, none, none),
        sound if events is None else events,
        None,
        tuple(record(s) for s in refused),
    )


def test_a_quiet_run_with_sound_audits_is_trained():
    judged = verdict.judge(run())
    assert judged.trained and verdict.sentence(judged) == "trained"
    assert (judged.recent_per_ps, judged.earlier_per_ps) == (0.0, 3 / 5)
    table = dict(verdict.rows(judged))
    assert table["Audits"] == "19" and "19 of 19 trusted" in table["Audit pass rate"]
    assert all(level in table["Coverage of predicted intervals, audits only"] for level in ("50%", "80%", "90%", "95%"))


@pytest.mark.parametrize(("share", "trained"), [(0.2, False), (0.01, True)])
def test_steps_beyond_the_limit_count_where_uncertainty_may_not_ask(share, trained):
    sigma = np.where(np.arange(STEPS) % 100 < 100 * share, 0.02, 0.005)
    none = np.full(STEPS, np.nan)
    thermo = ThermoSeries(none, none, none, none, sigma, np.full(STEPS, 0.01))
    quiet = run()
    spaced = quiet._replace(settings=quiet.settings._replace(min_steps_between_labels=2000), thermo=thermo)
    judged = verdict.judge(spaced)
    assert judged.trained == trained and ("above the limit" in verdict.sentence(judged)) != trained


def test_audits_count_though_sigma_is_above_a_limit_that_was_not_in_force():
    beyond = [audit(i, error=0.03, sigma=0.05, pit=(i + 0.5) / 19, asked=False) for i in range(19)]
    said = verdict.judge(run(events=beyond)).statement
    assert (said.trusted, said.above) == (19, 19)
    before_it_was_logged = [{k: v for k, v in event.items() if k != "asked"} for event in beyond]
    assert verdict.judge(run(events=before_it_was_logged)).statement.trusted == 0


BUSY = tuple(range(15_000, 15_006))


@pytest.mark.parametrize(
    ("data", "phrase"),
    [
        (run(labels=()), "no structure has been labelled"),
        (run(events=[audit(100 * i) for i in range(9)]), "only 9 audits, 10 are needed"),
        (run(events=[audit(7, raised=True)]), "only 0 audits since the calibration was raised"),
        (run(labels=(0, *BUSY)), "1.2 labels per ps"),
        (run(events=[audit(i, error=0.03 if i < 6 else 0.0) for i in range(19)]), "6 of 19 trusted audits are above"),
        (run(events=[audit(i, pit=0.999) for i in range(19)]), "the 95% interval contains 0%"),
        (run(refused=(19_000,)), "1 label rejected"),
        (run(events=[*run().events, {"event": "rolled_back", "time": 0.0, "step": 12_000}]), "1 roll-back in"),
    ],
)
def test_each_reason_is_named(data, phrase):
    judged = verdict.judge(data)
    assert not judged.trained and phrase in verdict.sentence(judged)
    assert verdict.sentence(judged).startswith("not yet, because ")


def test_what_happened_long_ago_does_not_count():
    events = [*run().events, {"event": "rolled_back", "time": 0.0, "step": 9_000}]
    judged = verdict.judge(run(labels=(0, *(s - 10_000 for s in BUSY)), events=events, refused=(9_000,)))
    assert judged.trained and (judged.rollbacks, judged.refused) == (1, 1)


def test_an_audit_that_is_above_by_chance_is_forgiven():
    events = [audit(i, error=0.03 if i == 3 else 0.0, pit=(i + 0.5) / 19) for i in range(19)]
    assert verdict.judge(run(events=events)).trained


def test_a_run_that_has_not_begun_has_a_verdict():
    empty = run(labels=(), events=[])._replace(steps=np.zeros(0))
    judged = verdict.judge(empty)
    assert not judged.trained and dict(verdict.rows(judged))["Audit pass rate"] == "no data"


# -- further triggers --------------------------------------------------------------------------------------------------

NEAR = ForceSettings(name="near", threshold="3 kcal/mol/Å", confidence=0.9, indices=(0,))


def force_audit(step, *, error=0.01, pit=0.5, raised=False):
    numbers = {"error_ev_a": error, "sigma_ev_a": 0.01, "sigma_crit_ev_a": 0.05, "threshold_ev_a": 0.13}
    return {"event": "audit", "time": 0.0, "step": step, "trigger": "near", **numbers, "pit": pit, "raised": raised,
            "asked": False, "atom": 0, "dof": 2.0}  # fmt: skip


def two(asked=((5, ("near",)), (40, ("energy", "near")), (60, ("energy",))), **force):
    sound = run()
    forces = [force_audit(1000 * i + 7, pit=0.5 + 0.5 * (i + 0.5) / 19, **force) for i in range(19)]
    labels = [record(0, "initial"), *(record(step)._replace(asked=names) for step, names in asked)]
    settings = sound.settings._replace(triggers=(NEAR,))
    return sound._replace(settings=settings, labels=labels, events=[*sound.events, *forces])


def test_each_trigger_has_its_own_audits_and_labels():
    judged = verdict.judge(two())
    assert judged.trained and judged.audits == 19
    table = dict(verdict.rows(judged))
    assert table["Labels requested by"] == "energy: 2, 1 of them alone; near: 2, 1 of them alone"
    assert "19 of 19 trusted audits" in table["Trigger near, audits"]
    assert "95%: 95%" in table["Trigger near, coverage"]


def test_the_verdict_names_the_trigger_whose_audits_fail():
    wrong = verdict.judge(two(error=0.2))
    assert wrong.missing == ("trigger near: 19 of 19 trusted audits are above the threshold, 10% allowed",)
    raised = verdict.judge(two(raised=True))
    assert "trigger near: only 0 audits since the calibration was raised, 10 are needed" in raised.missing
    assert verdict.judge(run()).tested[1:] == ()


def test_steps_beyond_the_limit_of_any_trigger_count():
    quiet = two()
    none = np.full(STEPS, np.nan)
    thermo = ThermoSeries(none, none, none, none, np.full(STEPS, 0.005), np.full(STEPS, 0.01))
    above = TriggerSeries(np.where(np.arange(STEPS) % 5 == 0, 0.2, 0.1), np.full(STEPS, 0.15))
    spaced = quiet._replace(settings=quiet.settings._replace(min_steps_between_labels=2000), thermo=thermo)
    assert verdict.judge(spaced).trained
    (why,) = verdict.judge(spaced._replace(triggers={"near": above})).missing
    assert "20% of the steps in the second half are above the limit" in why
