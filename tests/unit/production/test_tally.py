"""Running sums of a replica against numbers that were counted at once."""

import json

import numpy as np
import pytest

from bayes_mlff.core import units
from bayes_mlff.ensemble.triggers import ENERGY_SIGMA, Trigger
from bayes_mlff.production import tally
from bayes_mlff.production.tally import MOST_SPELLS, Steps, Tally
from bayes_mlff.runs.recorder import Recording

LIMIT, STEP_FS = 0.5, 0.4
MADE = Recording(None, None, None, STEP_FS, 10**6, 1, 1, False, 12, 0.01)  # pyright: ignore[reportArgumentType]


def series(sigma, energy=None):
    count = len(sigma)
    random = np.random.default_rng(1)
    nothing = np.full(count, np.nan)
    kinetic = random.uniform(0.1, 0.3, count)
    potential = -kinetic if energy is None else energy - kinetic
    place = np.arange(count, dtype=float)[:, None]
    return Steps(
        1 + np.arange(count), potential, kinetic, np.zeros(count), sigma[:, None], np.ones((count, 1)), place,
        nothing, nothing,
    )  # fmt: skip


def tallied(steps, cuts=(), limit=LIMIT):
    found = Tally()
    for part in np.split(np.arange(len(steps.number)), list(cuts)):
        found = tally.added(found, Steps(*(x[part] for x in steps)), (Trigger(ENERGY_SIGMA, limit),), MADE)
        found = Tally.from_json(json.loads(json.dumps(found.to_json())))  # as a checkpoint keeps it
    return found


def test_counts_and_spells_do_not_depend_on_where_chunks_end():
    sigma = np.random.default_rng(0).uniform(0.3, 0.6, 400)
    sigma[97:110] = np.linspace(0.7, 0.9, 13)  # over the ends of chunks
    steps = series(sigma)
    whole, cut = tallied(steps), tallied(steps, (100, 101, 200, 333))
    above = sigma > LIMIT
    starts = np.flatnonzero(above & ~np.append(False, above[:-1]))
    assert whole.above == cut.above == above.sum() and whole.steps == cut.steps == 400
    assert whole.watched[0].spells == len(starts) and whole.spells == cut.spells
    assert [spell.begin for spell in whole.spells] == (starts + 1).tolist()
    assert sum(spell.end - spell.begin + 1 for spell in whole.spells) == above.sum()
    found = cut.watched[0]
    assert (found.peak, found.place) == (110, 109) and found.ratio == pytest.approx(0.9 / LIMIT)
    np.testing.assert_allclose(whole.temperature, cut.temperature, rtol=1e-12)
    kelvin = 2.0 * (steps.kinetic - MADE.carried_ev) / (MADE.degrees_of_freedom * units.KB)
    assert cut.temperature[0] / 400 == pytest.approx(kelvin.mean())


def test_the_drift_is_the_slope_of_least_squares():
    time = 1e-3 * STEP_FS * (1 + np.arange(500))
    energy = -7.0 + 0.3 * time + 0.01 * np.random.default_rng(3).normal(size=500)
    found = tallied(series(np.zeros(500), energy), (120, 250))
    assert found.drift_ev_ps() == pytest.approx(np.polyfit(time, energy, 1)[0], rel=1e-6)
    assert found.first_ev == pytest.approx(energy[0]) and found.last_ev == pytest.approx(energy[-1] - energy[0])
    assert np.isnan(tallied(series(np.zeros(1))).drift_ev_ps())


def test_an_unknown_limit_and_more_spells_than_are_listed():
    found = tallied(series(np.full(10, 9.0)), (4,), limit=np.nan)
    assert found.above == 0 and found.watched[0].steps == 0 and not found.spells
    many = tallied(series(np.tile([0.6, 0.4], 3 * MOST_SPELLS)), (11, 301))
    assert many.watched[0].spells == 3 * MOST_SPELLS and len(many.spells) == MOST_SPELLS
