"""Each guard trips just above its limit and not just below; the way back; when a run gives up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayes_mlff.core import units
from bayes_mlff.core.errors import RunStoppedError
from bayes_mlff.core.units import KCAL_MOL
from bayes_mlff.data import neighbors
from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.data.labels import Label
from bayes_mlff.data.readings import Reading
from bayes_mlff.data.structure import Structure
from bayes_mlff.ensemble import error_law
from bayes_mlff.ensemble.triggers import ENERGY_SIGMA, Criterion, on_energy
from bayes_mlff.md import chunk as chunks
from bayes_mlff.md.chunk import Stop, no_limits
from bayes_mlff.md.integrators import kinetic_energy
from bayes_mlff.otf import config, guards, storm
from bayes_mlff.otf.state import Anchor, Setback
from tests.support.force_triggers import EVERYWHERE
from tests.support.guard_states import CELL, FewArrays, State, host, md, predictive, problem, real, structure

ABOVE, BELOW = 1.001, 0.999


def bits(limits=None, *, state=None, energy=1.0, sigma=0.01, number=5):
    state = md() if state is None else state
    _, around = neighbors.allocate(
        structure()._replace(positions=np.asarray(state.position), cell=np.asarray(state.cell)),
        (6,),
        3.0,
        dtype=np.float64,
    )
    limits = no_limits(jnp.float64)._replace(**(limits or {}))
    compared = chunks.compare(state, around, predictive(energy, sigma), real([sigma]), limits, jnp.int32(number))
    return Stop(int(chunks.guard(state, compared, limits, jnp.int32(number))))


def test_without_limits_nothing_trips():
    assert bits() == Stop.NONE


@pytest.mark.parametrize(("factor", "trips"), [(BELOW, True), (ABOVE, False)])
def test_each_limit_of_a_step(factor, trips):
    """The limit is moved to just below and just above what the step has."""
    kinetic, volume = float(kinetic_energy(md())), float(np.linalg.det(CELL))
    for limit, bit in (
        ({"statistics": real([0.01 * factor])}, Stop.SIGMA),
        ({"distance": real(1.1 / factor)}, Stop.CLOSE),
        ({"kinetic": real(kinetic * factor)}, Stop.HOT),
        ({"volume_max": real(volume * factor)}, Stop.VOLUME),
        ({"volume_min": real(volume / factor)}, Stop.VOLUME),
    ):
        assert bits(limit) == (bit if trips else Stop.NONE), limit


def test_close_contacts_across_the_boundary_count():
    moved = md().set(position=jnp.asarray([[0.0, 0, 0], [2.6, 0, 0]]))
    assert bits({"distance": real(0.41)}, state=moved) == Stop.CLOSE
    assert bits({"distance": real(0.39)}, state=moved) == Stop.NONE


def test_an_audit_is_its_own_step_only():
    for number in (4, 5, 6):
        assert bits({"audit": jnp.int32(5)}, number=number) == (Stop.AUDIT if number == 5 else Stop.NONE)


@pytest.mark.parametrize("field", ["position", "momentum", "cell"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_state_that_is_not_finite(field, value):
    spoilt = md()
    _, around = neighbors.allocate(structure(), (6,), 3.0, dtype=np.float64)
    spoilt = spoilt.set(**{field: getattr(spoilt, field).at[0, 0].set(value)})
    none = no_limits(jnp.float64)
    compared = chunks.compare(spoilt, around, predictive(), real([0.01]), none, jnp.int32(1))
    found = chunks.guard(spoilt, compared, none, jnp.int32(1))
    assert Stop.NON_FINITE in Stop(int(found))


def test_drift_counts_from_the_anchor_and_is_allowed_to_grow():
    conserved = 1.0 + float(kinetic_energy(md()))

    def drifts(by, *, age, allowed=0.3, per_step=0.01):
        limits = {"conserved": real(conserved - by), "drift": real(allowed), "drift_per_step": real(per_step)}
        return Stop.DRIFT in bits(limits | {"age": jnp.int32(age)}, number=5)

    assert drifts(0.3 * ABOVE, age=0) and drifts(-0.3 * ABOVE, age=0) and not drifts(0.3 * BELOW, age=0)
    assert drifts(1.05 * ABOVE, age=100) and not drifts(1.05 * BELOW, age=100)
    assert bits({"drift": real(0.0)}) == Stop.NONE, "no anchor, no drift"


# -- limits of a chunk ---------------------------------------------------------------------------------------------


def limits(settings=None, *, state=None, known=(0.001,), crit=0.002, **changes):
    settings = settings or problem()
    state = state or State(FewArrays(md(), md()), host(**changes))
    return guards.limits(settings, state, steps=100, triggers=on_energy(crit), audit=7, known={"energy": list(known)})


def test_limits_follow_the_settings():
    settings = problem(guards={"sigma_ratio": 4.0, "volume_ratio": 1.25, "min_distance_angstrom": 0.7})
    found = limits(settings, crit=0.02)
    assert float(found.statistics[0]) == pytest.approx(0.08)
    assert float(found.distance) == pytest.approx(0.7) and int(found.audit) == 7
    volume = float(np.linalg.det(CELL))
    assert (float(found.volume_min), float(found.volume_max)) == pytest.approx((volume / 1.25, volume * 1.25))
    assert np.isinf(found.drift)


def test_sigma_is_compared_with_the_largest_of_three_and_with_nothing_before_the_first_label():
    first = float(error_law.critical_sigma(error_law.init(), 0.02))
    assert float(limits(crit=1e-6).statistics[0]) == pytest.approx(20 * first)
    assert float(limits(crit=0.5).statistics[0]) == pytest.approx(10.0)
    assert float(limits(known=(0.1, 0.3, 9.0)).statistics[0]) == pytest.approx(6.0)
    assert np.isinf(limits(known=()).statistics[0])


def kinetic_of(settings, temperature):
    return 0.5 * settings.integrator.degrees_of_freedom(2) * units.KB * temperature


def test_few_atoms_get_room_for_their_fluctuations():
    settings = problem()
    ratio = float(limits(settings).kinetic) / kinetic_of(settings, 300.0)
    assert ratio > 11.0 > settings.config.guards.temperature_ratio
    strict = problem(guards={"temperature_ratio": 15.0})
    assert float(limits(strict).kinetic) == pytest.approx(kinetic_of(strict, 300.0 * 15.0))


def test_the_hottest_temperature_so_far_counts():
    segments = [{"duration_ps": 1.0, "temperature_k": 300.0, "end_temperature_k": 900.0},
                {"duration_ps": 1.0, "temperature_k": 50.0}]  # fmt: skip
    settings = problem(dynamics={"schedule": segments})
    for time_ps, highest in ((0.0, 300.0), (0.5, 600.0), (1.0, 900.0), (1.7, 900.0)):
        assert guards.hottest_k(settings.config.dynamics, 1000 * time_ps) == pytest.approx(highest)
    assert guards.hottest_k(problem(dynamics={"temperature_k": 10.0}).config.dynamics, 0.0) == guards.COLDEST_K


def test_a_trusted_state_is_never_too_hot():
    settings = problem(guards={"temperature_ratio": 15.0})
    hot = md(5000.0)
    found = limits(settings, state=State(FewArrays(hot, hot), host()))
    assert float(found.kinetic) == pytest.approx(15.0 * float(kinetic_energy(hot)), rel=1e-6)


def test_drift_is_limited_in_nve_only():
    settings = problem(dynamics={"ensemble": "nve"}, guards={"drift_kcal_mol_atom_ps": 2.0})
    found = limits(settings, step=50, anchor=Anchor(30, 1.25))
    assert float(found.drift) == pytest.approx(2.0 * KCAL_MOL * 2)
    assert float(found.drift_per_step) == pytest.approx(2.0 * KCAL_MOL * 2 * 0.0005)
    assert (int(found.age), float(found.conserved)) == (20, 1.25)
    assert np.isnan(limits(settings).conserved)


# -- the way back --------------------------------------------------------------------------------------------------


def test_the_way_back_draws_new_velocities_of_the_scheduled_temperature():
    trusted = md(seed=3).set(step=jnp.int32(4), work=jnp.asarray([0.5, 0.0]))
    settings = problem(dynamics={"temperature_k": 3000.0})
    backs = [guards.back(settings, trusted, 90, count) for count in range(400)]
    np.testing.assert_array_equal(backs[0].position, trusted.position)
    np.testing.assert_array_equal(backs[0].force, trusted.force)
    assert int(backs[0].step) == 90
    np.testing.assert_array_equal(backs[7].momentum, guards.back(settings, trusted, 95, 7).momentum)
    assert not np.array_equal(backs[7].momentum, backs[8].momentum)
    assert not np.array_equal(jax.random.key_data(backs[7].rng), jax.random.key_data(backs[8].rng))
    kinetic = np.array([float(kinetic_energy(b)) for b in backs])
    # three degrees of freedom without the centre of mass: mean 1.5 kT, variance 1.5 (kT)², four standard errors
    kt = units.KB * 3000.0
    assert abs(kinetic.mean() - 1.5 * kt) < 4 * kt * np.sqrt(1.5 / 400)
    booked = float(backs[0].work[0]) - 0.5
    assert booked == pytest.approx(kinetic[0] - float(kinetic_energy(trusted)))


def test_in_nve_the_kinetic_energy_stays():
    trusted = md(seed=3)
    back = guards.back(problem(dynamics={"ensemble": "nve"}), trusted, 90, 1)
    assert float(kinetic_energy(back)) == pytest.approx(float(kinetic_energy(trusted)), rel=1e-12)
    assert not np.allclose(back.momentum, trusted.momentum)
    assert float(back.work[0]) == 0.0


@pytest.mark.parametrize("part", ["md", "params", "calibration"])
def test_what_is_not_finite_is_named(part):
    state = State(FewArrays(md(), md()), host())
    assert guards.not_finite(state) == ()
    if part == "md":
        state = state._replace(device=state.device._replace(md=md().set(momentum=jnp.full((2, 3), jnp.inf))))
    if part == "params":
        state = state._replace(device=state.device._replace(params=jnp.full((2, 3), jnp.nan)))
    if part == "calibration":
        law = error_law.init(floor=0.01)
        broken = law._replace(log_weight=np.nan * law.log_weight)
        state = state._replace(host=state.host._replace(calibrations={"energy": broken}))
    assert guards.not_finite(state) == (part,)


# -- giving up -----------------------------------------------------------------------------------------------------


def settings_of(**changes):
    return config.GuardsConfig(**changes)


def test_roll_backs_are_counted_within_the_window():
    past = tuple(Setback(step, "guard", f"reason {step}") for step in (10, 500, 900))
    few = settings_of(max_rollbacks=2, rollback_steps=1000)
    guards.permit(few, host(1400, setbacks=past), Setback(1500, "guard", "now"), 0)
    with pytest.raises(RunStoppedError, match=r"(?s)2 roll-backs.*reason 500.*reason 900.*now"):
        guards.permit(few, host(1400, setbacks=past), Setback(1499, "guard", "now"), 0)


def test_failures_in_a_row_are_counted_since_the_last_label():
    past = tuple(Setback(step, "reference", f"reason {step}") for step in (10, 20))
    few = settings_of(max_failures=3)
    guards.permit(few, host(25, setbacks=past), Setback(30, "reference", "now"), 15)
    guards.permit(few, host(25, setbacks=past), Setback(30, "guard", "now"), 0)
    with pytest.raises(RunStoppedError, match=r"(?s)3 reference calculations in a row.*reason 10.*reason 20.*now"):
        guards.permit(few, host(25, setbacks=past), Setback(30, "reference", "now"), 0)


def test_stop_at_once():
    with pytest.raises(RunStoppedError, match="step 30: why; the run stands at step 25"):
        guards.permit(settings_of(on_failure="stop"), host(25), Setback(30, "guard", "why"), 0)


# -- storms --------------------------------------------------------------------------------------------------------


ENERGY_ALONE = (Criterion(ENERGY_SIGMA, 0.02, 0.95, error_law.init(), 1.0),)


def calls(steps, errors, sigma=0.01):
    still = Structure(np.array([6]), np.zeros((1, 3)), np.zeros((3, 3)), np.zeros(3, bool))
    made = zip(steps, errors, strict=True)
    return [
        LabelRecord(
            still,
            Label(-e, np.zeros((1, 3))),
            s,
            0.0,
            "uncertain",
            0.0,
            None,
            "x",
            1.0,
            0.0,
            sigma,
            readings=(Reading("energy", sigma, 1e-3, "eV"),),
            asked=("energy",),
        )
        for s, e in made
    ]


def test_a_storm_needs_its_number_of_calls_in_its_number_of_steps():
    few = settings_of(storm_labels=5, storm_steps=50)
    storm.refuse_storm(few, calls([10, 51, 60, 70, 80], np.ones(5)), 100, ENERGY_ALONE)
    storm.refuse_storm(few, calls([50, 51, 60, 70, 80], np.ones(5)), 100, ENERGY_ALONE)
    with pytest.raises(RunStoppedError, match="5 reference calls within the last 50 steps"):
        storm.refuse_storm(few, calls([51, 52, 60, 70, 80], np.ones(5)), 100, ENERGY_ALONE)


@pytest.mark.parametrize(
    ("errors", "phrase"),
    [
        (0.02 * np.array([3.0, 3.1, 2.9, 3.0, 3.2, 3.0]), "shifted"),
        (0.02 * np.array([0.1, -0.2, 0.1, -0.1, 0.2, -0.1]), "calibration"),
        (0.02 * np.array([4.0, -5.0, 4.0, -1.0, 1.0, -1.0]), "is learning"),
        (0.02 * np.array([2.0, -2.0, 2.0, -2.0, 2.0, -2.0]), "does not learn"),
    ],
)
def test_the_diagnosis_reads_the_errors(errors, phrase):
    with pytest.raises(RunStoppedError, match=phrase):
        storm.refuse_storm(settings_of(storm_labels=6), calls(range(6), errors), 6, ENERGY_ALONE)


def test_a_storm_says_which_trigger_asked_and_reads_its_errors():
    both = (*ENERGY_ALONE, Criterion(EVERYWHERE, 0.5, 0.95, error_law.init(), 1.0))
    asked = [
        r._replace(
            asked=("force",),
            predicted_forces_mean=np.array([[0.0, 0.0, 2.0]]),
            readings=(*r.readings, Reading("force", 0.5, 0.1, "eV/Å", 2.0, 0)),
        )
        for r in calls(range(6), np.full(6, 1e-4))
    ]
    with pytest.raises(RunStoppedError, match=r"requested by energy: 0, force: 6; of trigger force: .*does not learn"):
        storm.refuse_storm(settings_of(storm_labels=6), asked, 6, both)
