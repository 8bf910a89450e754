"""Running sums of one replica, over every step whether it is stored or not."""

from typing import Any, Final, NamedTuple

import numpy as np

from bayes_mlff.core import units
from bayes_mlff.ensemble.triggers import Trigger
from bayes_mlff.runs.recorder import Recording

MOST_SPELLS: Final = 200
"""Largest number of spells above a limit that are listed; all of them count."""


class Steps(NamedTuple):
    """Values of consecutive steps of one replica on the host; each [m] or [m, t], float64."""

    number: np.ndarray  # of the step in its part, from 1
    potential: np.ndarray  # eV, of the network
    kinetic: np.ndarray  # eV
    work: np.ndarray  # eV
    statistics: np.ndarray  # [m, t]
    dof: np.ndarray  # [m, t]
    place: np.ndarray  # [m, t]
    pressure_gpa: np.ndarray  # nan where it is not known
    volume_a3: np.ndarray


class Spell(NamedTuple):
    """Consecutive steps in which a statistic is above its limit."""

    trigger: int
    begin: int  # first step
    end: int  # last step
    ratio: float  # largest statistic / limit
    peak: int  # step of that
    place: int  # index of the candidate that counted then: the atom, for forces


class Watched(NamedTuple):
    """Counts of one trigger."""

    steps: int = 0  # with a known limit
    above: int = 0
    spells: int = 0
    last_above: int = -1  # step
    ratio: float = 0.0  # largest statistic / limit
    peak: int = 0  # step of that
    place: int = 0


class Tally(NamedTuple):
    """Sums over the steps of one replica in one part."""

    steps: int = 0
    above: int = 0  # steps with any statistic above its limit
    watched: tuple[Watched, ...] = ()
    spells: tuple[Spell, ...] = ()
    temperature: tuple[float, float] = (0.0, 0.0)  # sums of K and K²
    potential: float = 0.0  # sum, eV
    sigma: float = 0.0  # sum of the first statistic
    pressure: float = 0.0  # sum, GPa
    volume: float = 0.0  # sum, Å³
    first_ev: float | None = None  # conserved energy after the first step, eV, of the network
    last_ev: float = 0.0  # minus the first
    line: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)  # sums of t, t², e, t·e; ps and eV above the first

    def to_json(self) -> list[Any]:
        """Plain values, floats exact."""
        return [list(map(list, x)) if name in ("watched", "spells") else x for name, x in self._asdict().items()]

    @classmethod
    def from_json(cls, stored: list[Any]) -> "Tally":
        """`to_json` back."""
        found = cls(*stored)
        return found._replace(
            watched=tuple(Watched(*each) for each in found.watched),
            spells=tuple(Spell(*each) for each in found.spells),
            temperature=tuple(found.temperature),
            line=tuple(found.line),
        )

    def drift_ev_ps(self) -> float:
        """Slope of the conserved energy by least squares, eV/ps; nan with fewer than two steps."""
        t, tt, e, te = self.line
        spread = self.steps * tt - t * t
        return (self.steps * te - t * e) / spread if self.steps > 1 and spread > 0.0 else float("nan")


def added(tally: Tally, steps: Steps, triggers: tuple[Trigger, ...], made: Recording) -> Tally:
    """The tally with further steps.

    Args:
      tally: before them.
      steps: at least one; they follow those that were added before.
      triggers: with their limits; nan: not known.
      made: constants of the part.
    """
    limit = np.stack([t.limit_of(steps.dof[:, i]) for i, t in enumerate(triggers)], axis=1)
    ratio = steps.statistics / limit
    over = steps.statistics > limit
    before = tally.watched or (Watched(),) * len(triggers)
    watched, spells = [], list(tally.spells)
    for i, each in enumerate(before):
        watched.append(_watched(each, i, steps, ratio[:, i], over[:, i], spells))
    kelvin = 2.0 * (steps.kinetic - made.carried_ev) / (made.degrees_of_freedom * units.KB)
    conserved = steps.potential + steps.kinetic - steps.work
    first = float(conserved[0]) if tally.first_ev is None else tally.first_ev
    e, t = conserved - first, steps.number * made.timestep_fs / 1000.0
    line = np.array(tally.line) + np.sum([t, t * t, e, t * e], axis=1)
    squares = np.array(tally.temperature) + np.sum([kelvin, kelvin**2], axis=1)
    return Tally(
        tally.steps + len(steps.number),
        tally.above + int(np.sum(np.any(over, axis=1))),
        tuple(watched),
        tuple(spells),
        (float(squares[0]), float(squares[1])),
        tally.potential + float(np.sum(steps.potential)),
        tally.sigma + float(np.sum(steps.statistics[:, 0])),
        tally.pressure + float(np.sum(steps.pressure_gpa)),
        tally.volume + float(np.sum(steps.volume_a3)),
        first,
        float(e[-1]),
        (float(line[0]), float(line[1]), float(line[2]), float(line[3])),
    )


def _watched(
    before: Watched, trigger: int, steps: Steps, ratio: np.ndarray, over: np.ndarray, spells: list[Spell]
) -> Watched:
    """Counts of one trigger with further steps [m]; its spells are added to the list or lengthened there."""
    known = np.isfinite(ratio)
    found = before._replace(steps=before.steps + int(np.sum(known)), above=before.above + int(np.sum(over)))
    if known.any():
        best = int(np.nanargmax(ratio))
        if ratio[best] > before.ratio:
            place = int(steps.place[best, trigger])
            found = found._replace(ratio=float(ratio[best]), peak=int(steps.number[best]), place=place)
    where = np.flatnonzero(over)
    for group in np.split(where, np.flatnonzero(np.diff(where) > 1) + 1) if len(where) else ():
        best = int(group[np.argmax(ratio[group])])
        begin, end = int(steps.number[group[0]]), int(steps.number[group[-1]])
        spell = Spell(trigger, begin, end, float(ratio[best]), int(steps.number[best]), int(steps.place[best, trigger]))
        if begin == found.last_above + 1:
            _lengthen(spells, spell)
        else:
            found = found._replace(spells=found.spells + 1)
            if len(spells) < MOST_SPELLS:
                spells.append(spell)
        found = found._replace(last_above=end)
    return found


def _lengthen(spells: list[Spell], more: Spell) -> None:
    """Join a spell that goes on over the end of a chunk, if it is listed."""
    for i, spell in enumerate(spells):
        if spell.trigger == more.trigger and spell.end == more.begin - 1:
            higher = more if more.ratio > spell.ratio else spell
            spells[i] = higher._replace(begin=spell.begin, end=more.end)
