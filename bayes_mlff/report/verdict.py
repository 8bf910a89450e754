"""Verdict on whether the model is trained, with the evidence and the conditions that are not met."""

from typing import Final, NamedTuple

import numpy as np

from bayes_mlff.otf import audits
from bayes_mlff.otf.audits import Statement
from bayes_mlff.report.run_log import RunLog

MIN_AUDITS: Final = 10
"""Fewer audits cannot exclude a model that is wrong in every fourth case (0 of 10: at most 31 % at 95 %)."""

QUIET_PER_PS: Final = 1.0
"""Largest number of labels per picosecond, requested by the trigger, for a run that is called trained."""


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
    every = audits.read(run.events)
    current = audits.statement(audits.since_raise(every))
    back = sorted({int(e["step"]) for e in run.events if e["event"] == "rolled_back"})
    missing = [] if run.labels else ["no structure has been labelled"]
    if current.count < MIN_AUDITS:
        since = " since the calibration was raised" if any(a.raised for a in every) else ""
        missing.append(f"only {_count(current.count, 'audit')}{since}, {MIN_AUDITS} are needed")
    if current.share_above is not None and current.share_above.lower > 1.0 - run.settings.confidence:
        missing.append(
            f"{current.above} of {current.trusted} trusted audits are above the threshold, "
            f"{1.0 - run.settings.confidence:.0%} allowed"
        )
    if current.coverage is not None:
        missing += [
            f"the {level:.0%} interval contains {observed:.0%} of the audits"
            for level, observed, upper in zip(
                current.coverage.level, current.coverage.observed, current.coverage.upper, strict=True
            )
            if upper < level
        ]
    if half_ps > 0.0 and recent / half_ps > QUIET_PER_PS:
        missing.append(
            f"{recent / half_ps:.3g} labels per ps requested in the second half, at most {QUIET_PER_PS:g} expected"
        )
    if run.settings.min_steps_between_labels and half_ps > 0.0:
        late_steps = run.steps > middle
        beyond = np.mean(run.thermo.sigma_ev[late_steps] > run.thermo.sigma_crit_ev[late_steps])
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
        audits=len(every),
        raised=sum(a.raised for a in every),
        rollbacks=len(back),
        refused=len(run.refused),
    )


def sentence(verdict: Verdict) -> str:
    """`trained`, or `not yet, because ...`."""
    return "trained" if verdict.trained else "not yet, because " + "; ".join(verdict.missing)


def rows(verdict: Verdict) -> list[tuple[str, str]]:
    """Names and values for a table."""
    v, said = verdict, verdict.statement
    passed, covered = "no data", "no data"
    if said.share_above is not None:
        share = said.share_above
        passed = (
            f"{said.trusted - said.above} of {said.trusted} trusted audits within the threshold; "
            f"above: {share.observed:.1%} (95 % interval {share.lower:.1%} to {share.upper:.1%})"
        )
    if said.coverage is not None:
        covered = ", ".join(
            f"{level:.0%}: {observed:.0%} ({lower:.0%} to {upper:.0%})"
            for level, observed, lower, upper in zip(*said.coverage[:4], strict=True)
        )
    per_ps = f"{v.recent_per_ps:.3g} in the last {v.recent_ps:.3g} ps, {v.earlier_per_ps:.3g} before"
    raised = f"; the calibration was raised {_count(v.raised, 'time')}" if v.raised else ""
    return [
        ("Verdict", sentence(v)),
        ("Labels requested per ps", per_ps),
        ("Audits", f"{v.audits}{raised}"),
        ("Audit pass rate", passed),
        ("Coverage of predicted intervals, audits only", covered),
        ("Roll-backs, rejected labels", f"{v.rollbacks}, {v.refused}"),
    ]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
