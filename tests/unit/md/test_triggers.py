"""Triggers in compiled dynamics: each is compared with its own limit, and limits are data and no code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayes_mlff.data import neighbors
from bayes_mlff.data.readings import Reading
from bayes_mlff.ensemble import error_law, triggers
from bayes_mlff.ensemble.triggers import ENERGY_SIGMA, Criterion, Trigger, on_energy
from bayes_mlff.md import chunk as chunks
from bayes_mlff.md.chunk import Stop, no_limits
from tests.support.force_triggers import EVERYWHERE as FORCE
from tests.support.guard_states import md, predictive, problem, real, structure

INTEGRATOR = problem(dynamics={"ensemble": "nve"}).integrator
FORCE_SIGMA = 0.1 * np.sqrt(3.0)


def step_of(said):
    """One step at whose end the ensemble says this, as a function of the triggers."""
    start = md()
    _, around = neighbors.allocate(structure(), (6,), 3.0, dtype=np.float64)

    @jax.jit
    def take(watched, limits):
        zero = chunks.empty_chunk(start, around, said, watched, 3)
        return chunks.conclude(zero, start, around, said, INTEGRATOR, watched, limits)

    return take


FREE = no_limits(jnp.float64)


def both(energy, force):
    return Trigger(ENERGY_SIGMA, real(energy)), Trigger(FORCE, real(force))


def test_every_trigger_stops_alone_and_limits_compile_nothing(count_compilations):
    take = step_of(predictive(sigma=0.01))
    cases = [
        ((0.02, 0.2), (False, False)),
        ((0.009, 0.2), (True, False)),
        ((0.02, 0.17), (False, True)),
        ((0.009, 0.17), (True, True)),
    ]
    with count_compilations() as compiled:
        found = [take(both(*limits), FREE) for limits, _ in cases]
    assert compiled.value <= 1
    for got, (_, asked) in zip(found, cases, strict=True):
        assert got.asked.tolist() == list(asked)
        assert Stop(int(got.stop)) == (Stop.UNCERTAIN if any(asked) else Stop.NONE)
        np.testing.assert_allclose(got.thermo.statistics[0], [0.01, FORCE_SIGMA], rtol=1e-12)
        np.testing.assert_allclose(got.compared.statistics, [0.01, FORCE_SIGMA], rtol=1e-12)


def test_limits_of_each_step_are_data_too(count_compilations):
    start, said, state = md(), predictive(sigma=0.01), error_law.init(3.0, 10.0)
    _, around = neighbors.allocate(structure(), (6,), 3.0, dtype=np.float64)

    @jax.jit
    def take(watched, step):
        zero = chunks.empty_chunk(start, around, said, watched, 3)
        return chunks.conclude(zero._replace(steps=step), start, around, said, INTEGRATOR, watched, FREE)

    def growing(factor):
        wanted = Criterion(FORCE, factor * np.array([0.5, 1.0, 2.0]), 0.95, state, 1.0).trigger(state)
        assert wanted.limit.shape == (3,) and wanted.wider.shape == (3, len(triggers.COMPONENTS))
        return Trigger(ENERGY_SIGMA, real(0.02)), *triggers.on_device((wanted,), jnp.float64)

    exact = error_law.critical_sigma(state, 1.0, dof=3.0)  # for the second step, if the factor is 1
    cases = [(1.001, (True, False, False)), (0.999, (True, True, False)), (0.3, (True, True, True))]
    watched = [growing(factor * FORCE_SIGMA / exact) for factor, _ in cases]
    steps = [jnp.asarray(step, jnp.int32) for step in range(3)]
    with count_compilations() as compiled:
        found = [[take(each, step) for step in steps] for each in watched]
    assert compiled.value <= 1
    for (factor, asked), each, took in zip(cases, watched, found, strict=True):
        assert [bool(one.asked[1]) for one in took] == list(asked) and not any(one.asked[0] for one in took)
        energy, force = triggers.readings(tuple(trigger.at(2) for trigger in each), took[2].measured)
        assert force.limit == pytest.approx(2.0 * factor * FORCE_SIGMA) and energy.limit == 0.02


def test_each_statistic_has_its_own_guard():
    take, never = step_of(predictive(sigma=0.01)), both(np.inf, np.inf)
    for highest, stop in (([1.0, 1.0], Stop.NONE), ([0.001, 1.0], Stop.SIGMA), ([1.0, 0.17], Stop.SIGMA)):
        assert Stop(int(take(never, FREE._replace(statistics=real(highest))).stop)) == stop


def test_a_statistic_that_is_not_finite_stops():
    spoilt = predictive()._replace(forces_sigma=jnp.full((1, 2, 3), jnp.nan))
    assert Stop.NON_FINITE in Stop(int(step_of(spoilt)(both(np.inf, np.inf), FREE).stop))


def test_padding_is_not_asked():
    said = predictive()._replace(forces_sigma=real([[[0.1] * 3, [1.0] * 3]]))
    _, around = neighbors.allocate(structure(), (6,), 3.0, dtype=np.float64)
    padded = around.graph._replace(node_mask=jnp.array([True, False]))
    found = triggers.measure(both(0.02, 0.2), said, padded)
    assert found.place[1] == 0 and float(found.sigma[1]) == pytest.approx(FORCE_SIGMA)


def test_the_atom_highest_above_its_own_limit_counts():
    # Atom 1 has the larger σ, but three independent components, whose norm has a shorter tail.
    said = predictive()._replace(forces_sigma=real([[[0.1] * 3, [0.105] * 3]]), forces_dof=real([[1.0, 3.0]]))
    trigger = Criterion(FORCE, 0.2, 0.95, error_law.init(3.0, 10.0), 1.0).trigger(error_law.init(3.0, 10.0))
    _, around = neighbors.allocate(structure(), (6,), 3.0, dtype=np.float64)
    found = triggers.measure((trigger,), said, around.graph)
    assert found.place[0] == 0 and found.dof[0] == 1.0
    (limit,) = triggers.limits((trigger,), found)
    assert float(limit) == pytest.approx(trigger.limit)
    (reading,) = triggers.readings((trigger,), found)
    assert reading.atom == 0 and reading.limit == trigger.limit and reading.value == pytest.approx(FORCE_SIGMA)


def test_limits_of_vectors_lie_between_those_of_one_and_three_components():
    prior = error_law.init(3.0, 10.0)
    asked = Criterion(FORCE, 0.2, 0.9, prior, 1.0)
    trigger = asked.trigger(prior)
    for dof in (1.0, 1.13, 1.8, 2.0, 2.91, 3.0):
        exact = error_law.critical_sigma(prior, 0.2, confidence=0.9, dof=dof)
        assert 0.999 * exact <= trigger.limit_of(dof) <= (1.0 + 1e-12) * exact
        device = triggers.limits(
            triggers.on_device((trigger,), jnp.dtype(np.float64)),
            triggers.Measured(real([0.1]), real([dof]), jnp.zeros(1, jnp.int32)),
        )
        assert float(device[0]) == pytest.approx(float(trigger.limit_of(dof)), rel=1e-12)


def test_readings_keep_the_limit_that_silent_dynamics_does_not_have():
    now = both(0.02, 0.2)
    silent = triggers.on_device(now, jnp.dtype(np.float64), silent=True)
    assert all(np.isinf(trigger.limit) for trigger in silent)
    measured = step_of(predictive(sigma=0.01))(silent, FREE).measured
    energy, force = triggers.readings(now, measured)
    assert energy == Reading("energy", 0.01, 0.02, "eV")
    assert force.name == "force" and force.value == pytest.approx(FORCE_SIGMA) and force.limit == 0.2
    assert force.atom == 0 and force.dof == 3.0
    assert triggers.on_energy(0.3) == on_energy(0.3)


def test_the_limit_follows_the_calibration():
    prior = error_law.init(3.0, 10.0)
    asked = Criterion(ENERGY_SIGMA, 0.02, 0.95, prior, 1.0)
    worse = error_law.update(prior, 0.1, 0.01)
    for state in (prior, worse):
        assert asked.trigger(state).limit == error_law.critical_sigma(state, 0.02, confidence=0.95)
    assert asked.limit(worse) < asked.limit(prior)
