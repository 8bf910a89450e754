"""Verdict on whether the model is trained, with the evidence and the conditions that are not met."""

from typing import Final, NamedTuple

import numpy as np

from bayes_mlff.data.readings import ENERGY
from bayes_mlff.otf import audits
from bayes_mlff.otf.audits import Statement
from bayes_mlff.report.run_log import RunLog

MIN_AUDITS: Final = 10
"""Fewer audits cannot exclude a model that is wrong in every fourth case (0 of 10: at most 31 % at 95 %)."""

QUIET_PER_PS: Final = 1.0
"""Largest number of labels per picosecond, requested by the trigger, for a run that is called trained."""


class Tested(NamedTuple):
    """What labels and audits say of one trigger."""

    name: str
    asked: int  # labels that it requested, alone or with others
    alone: int  # of them not requested by another trigger
    statement: Statement  # audits since its calibration was last raised
    audits: int  # all
    raised: int  # number of times that audits raised its calibration
    missing: tuple[str, ...]  # conditions of a trained model that are not met


class Verdict(NamedTuple):
    """Evaluation of the second half of a run, and of its audits since the calibration was last raised."""

    trained: bool
    missing: tuple[str, ...]  # conditions that are not met; empty if trained
    recent_ps: float  # length of the second half
    recent_per_ps: float  # labels requested by the trigger in the second half
    earlier_per_ps: float  # in the first half
    statement: Statement  # audits since the calibration was last raised
    audits: int  # all
    raised: int  # number of times that audits raised the calibration
    rollbacks: int
    refused: int  # rejected labels
    tested: tuple[Tested, ...] = ()  # all triggers, first that on the total energy


def judge(run: RunLog) -> Verdict:
    """Judge a finished or running run.

    Raises:
      RunDirectoryError: if an event lacks a field.
    """
    step_ps = run.settings.timestep_fs / 1000.0
    steps = run.reached
    middle, half_ps = steps / 2, steps * step_ps / 2
    asked = [r.step for r in run.labels if r.reason == "uncertain"]
    recent = sum(step > middle for step in asked)
    tested = (_tested(run, ENERGY, "eV", run.settings.confidence),)
    for each in run.settings.triggers:
        tested += (_tested(run, each.name, each.unit, each.confidence or run.settings.confidence),)
    current = tested[0].statement
    back = sorted({int(e["step"]) for e in run.events if e["event"] == "rolled_back"})
    missing = [] if run.labels or run.given else ["no structure has been labelled"]
    for each in tested:
        missing += [why if each.name == ENERGY else f"trigger {each.name}: {why}" for why in each.missing]
    if half_ps > 0.0 and recent / half_ps > QUIET_PER_PS:
        missing.append(
            f"{recent / half_ps:.3g} labels per ps requested in the second half, at most {QUIET_PER_PS:g} expected"
        )
    if run.settings.min_steps_between_labels and half_ps > 0.0:
        beyond = np.mean(_beyond(run)[run.steps > middle])
        if beyond > 1.0 - run.settings.confidence:
            missing.append(f"{beyond:.0%} of the steps in the second half are above the limit of σ")
    late = sum(step > middle for step in back)
    if late:
        missing.append(f"{_count(late, 'roll-back')} in the second half")
    doubted = sum(r.step > middle for r in run.refused)
    if doubted:
        missing.append(f"{_count(doubted, 'label')} rejected in the second half")
    return Verdict(
        trained=not missing,
        missing=tuple(missing),
        recent_ps=half_ps,
        recent_per_ps=recent / half_ps if half_ps > 0.0 else 0.0,
        earlier_per_ps=(len(asked) - recent) / half_ps if half_ps > 0.0 else 0.0,
        statement=current,
        audits=tested[0].audits,
        raised=tested[0].raised,
        rollbacks=len(back),
        refused=len(run.refused),
        tested=tested,
    )


def _tested(run: RunLog, name: str, unit: str, confidence: float) -> Tested:
    """Evaluate one trigger."""
    every = audits.read(run.events, name, unit)
    current, raised = audits.statement(audits.since_raise(every)), sum(a.raised for a in every)
    requested = [r.asked for r in run.labels if r.reason == "uncertain" and name in r.asked]
    missing = []
    if current.count < MIN_AUDITS and (name == ENERGY or raised):  # without a raise, all have the same audits
        since = " since the calibration was raised" if raised else ""
        missing.append(f"only {_count(current.count, 'audit')}{since}, {MIN_AUDITS} are needed")
    if current.share_above is not None and current.share_above.lower > 1.0 - confidence:
        missing.append(
            f"{current.above} of {current.trusted} trusted audits are above the threshold, "
            f"{1.0 - confidence:.0%} allowed"
        )
    if current.coverage is not None:
        missing += [
            f"the {level:.0%} interval contains {observed:.0%} of the audits"
            for level, observed, upper in zip(
                current.coverage.level, current.coverage.observed, current.coverage.upper, strict=True
            )
            if upper < level
        ]
    alone = sum(len(asked) == 1 for asked in requested)
    return Tested(name, len(requested), alone, current, len(every), raised, tuple(missing))


def _beyond(run: RunLog) -> np.ndarray:
    """Whether a trigger was above its limit at the logged steps [t]."""
    beyond = run.thermo.sigma_ev > run.thermo.sigma_crit_ev
    for series in run.triggers.values():
        beyond = beyond | (series.sigma > series.limit)
    return beyond


def sentence(verdict: Verdict) -> str:
    """`trained`, or `not yet, because ...`."""
    return "trained" if verdict.trained else "not yet, because " + "; ".join(verdict.missing)


def rows(verdict: Verdict) -> list[tuple[str, str]]:
    """Names and values for a table."""
    v, said = verdict, verdict.statement
    per_ps = f"{v.recent_per_ps:.3g} in the last {v.recent_ps:.3g} ps, {v.earlier_per_ps:.3g} before"
    raised = f"; the calibration was raised {_count(v.raised, 'time')}" if v.raised else ""
    return [
        ("Verdict", sentence(v)),
        ("Labels requested per ps", per_ps),
        ("Audits", f"{v.audits}{raised}"),
        ("Audit pass rate", _passed(said)),
        ("Coverage of predicted intervals, audits only", _covered(said)),
        ("Roll-backs, rejected labels", f"{v.rollbacks}, {v.refused}"),
        *_by_trigger(v.tested),
    ]


def _passed(said: Statement) -> str:
    if said.share_above is None:
        return "no data"
    share = said.share_above
    return (
        f"{said.trusted - said.above} of {said.trusted} trusted audits within the threshold; "
        f"above: {share.observed:.1%} (95 % interval {share.lower:.1%} to {share.upper:.1%})"
    )


def _covered(said: Statement) -> str:
    if said.coverage is None:
        return "no data"
    return ", ".join(
        f"{level:.0%}: {observed:.0%} ({lower:.0%} to {upper:.0%})"
        for level, observed, lower, upper in zip(*said.coverage[:4], strict=True)
    )


def _by_trigger(tested: tuple[Tested, ...]) -> list[tuple[str, str]]:
    """Who requested the labels, and the audits of further triggers; nothing for a run with one."""
    if len(tested) < 2:
        return []
    rows = [("Labels requested by", "; ".join(f"{t.name}: {t.asked}, {t.alone} of them alone" for t in tested))]
    for t in tested[1:]:
        raised = f"; its calibration was raised {_count(t.raised, 'time')}" if t.raised else ""
        rows.append((f"Trigger {t.name}, audits", f"{_passed(t.statement)}{raised}"))
        rows.append((f"Trigger {t.name}, coverage", _covered(t.statement)))
    return rows


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
