"""Labels that contradict what is known are refused; wrong ensembles and long paths are not."""

import numpy as np
import pytest

from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.data.labels import Label
from bayes_mlff.data.structure import Structure
from bayes_mlff.ensemble.energy_scale import EnergyScale
from bayes_mlff.otf import reference
from bayes_mlff.otf.plausibility import ANHARMONIC, FLOOR_THRESHOLDS, Expectation, misfit, objections

THRESHOLD = 0.02
STIFF = 30.0
"""Force constant, eV/Å², of springs that bind four atoms to the corners of a square."""

HOME = np.array([[0.0, 0, 0], [1.5, 0, 0], [0, 1.5, 0], [1.5, 1.5, 0]])
FLIP = ("magnetic moments changed (μB): Mn 4: +3.70 to -3.70; this label may be of another magnetic state",)


def structure(shift):
    return Structure(np.full(4, 6), HOME + shift, np.zeros((3, 3)), np.zeros(3, bool))


def springs(shift):
    """Energy and forces of harmonic springs, with an anharmonic part; without net force for shifts without one."""
    return Label(float(0.5 * STIFF * np.sum(shift**2) + 5.0 * np.sum(shift**3)), -STIFF * shift - 15.0 * shift**2)


def record(shift, label=None):
    return LabelRecord(structure(shift), label or springs(shift), 7, 3.5, "uncertain", 0.0, None, "x", 1.0)


def shifts(size, seed=0):
    shift = np.random.default_rng(seed).normal(0.0, size, (4, 3))
    return shift - shift.mean(axis=0)


def expected(label, *, energy=0.0, sigma=0.005, forces=0.0):
    return Expectation(label.energy + energy, sigma, label.forces + forces, np.full((4, 3), 0.02))


def judge(label, shift, expectation, before=None, remarks=(), **settings):
    return objections(
        structure(shift),
        label,
        scale=EnergyScale(-3.0),
        threshold_ev=THRESHOLD,
        expected=expectation,
        before=before,
        remarks=remarks,
        **settings,
    )


def test_the_work_of_the_mean_force_is_exact_for_springs():
    first, second = shifts(0.02, 1), shifts(0.02, 2)
    harmonic = [Label(0.5 * STIFF * float(np.sum(s**2)), -STIFF * s) for s in (first, second)]
    found = misfit(record(first, harmonic[0]), structure(second), harmonic[1], THRESHOLD)
    assert found.residual == pytest.approx(0.0, abs=1e-12)
    assert found.tolerance > FLOOR_THRESHOLDS * THRESHOLD


def test_strain_does_work_through_the_stress():
    cell, strain = np.diag([4.0, 4.0, 4.0]), np.diag([0.01, -0.005, 0.002])
    stress = np.diag([0.02, 0.03, -0.01])
    before = record(np.zeros((4, 3)))._replace(
        structure=Structure(np.full(4, 6), HOME, cell, np.ones(3, bool)),
        label=Label(0.0, np.zeros((4, 3)), stress),
    )
    deform = np.eye(3) + strain
    now = Structure(np.full(4, 6), HOME @ deform, cell @ deform, np.ones(3, bool))
    label = Label(64.0 * float(np.sum(stress * strain)), np.zeros((4, 3)), stress)
    assert misfit(before, now, label, THRESHOLD).residual == pytest.approx(0.0, abs=1e-12)
    assert misfit(before, now, label._replace(stress=None), THRESHOLD) is None


def test_tolerance_grows_with_the_distance():
    sizes = [misfit(record(shifts(0.01)), structure(shifts(s, 3)), springs(shifts(s, 3)), THRESHOLD) for s in
             (0.001, 0.05, 0.2)]  # fmt: skip
    assert sizes[0].tolerance < sizes[1].tolerance < sizes[2].tolerance
    assert all(abs(m.residual) < m.tolerance for m in sizes)


def test_a_sound_label_is_not_objected_to():
    for seed in range(20):
        first, second = shifts(0.05, seed), shifts(0.05, seed + 100)
        label = springs(second)
        assert judge(label, second, expected(label, energy=0.02, forces=0.03), record(first)) == ()


@pytest.mark.parametrize("excess", [0.99, 1.01])
def test_a_jump_that_the_ensemble_did_not_expect_is_refused_just_above_the_tolerance(excess):
    first, second = shifts(0.01, 1), shifts(0.01, 2)
    sound = springs(second)
    pair = misfit(record(first), structure(second), sound, THRESHOLD)
    lie = sound._replace(energy=sound.energy - pair.residual + excess * pair.tolerance)
    found = judge(lie, second, expected(sound), record(first))
    assert bool(found) == (excess > 1.0)
    if found:
        assert "contradict" in found[0] and "step 7" in found[0]


def test_a_jump_that_the_ensemble_expected_is_learnt():
    """Then the earlier label is at fault, or the path."""
    first, second = shifts(0.01, 1), shifts(0.01, 2)
    lie = springs(second)
    lie = lie._replace(energy=lie.energy + 0.2)
    assert judge(lie, second, expected(lie), record(first)) == ()


@pytest.mark.parametrize(("sigmas", "thresholds", "refused"), [(19, 30, 0), (30, 19, 0), (21, 21, 1)])
def test_both_bounds_on_the_energy_must_be_exceeded(sigmas, thresholds, refused):
    shift = shifts(0.01)
    label = springs(shift)
    error = thresholds * THRESHOLD
    found = judge(label, shift, expected(label, energy=-error, sigma=error / sigmas))
    assert len(found) == refused


def test_an_ensemble_that_is_wrong_is_not_protected_from_a_label_that_fits_the_one_before():
    first, second = shifts(0.002, 1), shifts(0.002, 2)
    label = springs(second)
    assert judge(label, second, expected(label, energy=1.0)), "without a witness it is refused"
    assert judge(label, second, expected(label, energy=1.0), record(first)) == ()


def test_forces_of_another_geometry_are_refused():
    shift = shifts(0.05)
    label = springs(shift)
    lie = label._replace(forces=-label.forces)
    found = judge(lie, shift, expected(label), record(shift + 1e-3))
    assert any("forces differ" in reason for reason in found)


def test_forces_near_those_of_the_label_before_convict_the_ensemble():
    shift = shifts(0.05)
    label = springs(shift)
    wrong = expected(label, forces=1.0)
    assert any("forces differ" in reason for reason in judge(label, shift, wrong))
    assert judge(label, shift, wrong, record(shift + 1e-4)) == ()


def test_a_flip_alone_is_no_reason_but_with_a_jump_it_is():
    first, second = shifts(0.01, 1), shifts(0.01, 2)
    sound = springs(second)
    assert judge(sound, second, expected(sound), record(first), FLIP) == ()
    pair = misfit(record(first), structure(second), sound, THRESHOLD)
    jumped = sound._replace(energy=sound.energy + pair.tolerance + abs(pair.residual) + 1e-3)
    broad = expected(sound, sigma=0.1)  # an ensemble too vague to object
    assert judge(jumped, second, broad, record(first)) == ()
    found = judge(jumped, second, broad, record(first), FLIP)
    assert "contradict" in found[0] and "magnetic" in found[1]


def test_the_share_of_the_second_order_that_is_allowed_is_the_documented_one():
    first, second = shifts(0.1, 1), shifts(0.1, 2)
    label = springs(second)
    moved = second - first
    moved = moved - moved.mean(axis=0)
    curved = np.sum(np.abs(np.sum((label.forces - springs(first).forces) * moved, axis=1)))
    found = misfit(record(first), structure(second), label, THRESHOLD)
    assert found.tolerance == pytest.approx(FLOOR_THRESHOLDS * THRESHOLD + ANHARMONIC * curved)


def test_a_geometry_is_the_same_to_rounding_and_with_the_same_atoms():
    here = Structure(np.array([25, 8]), np.array([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]]), 4.0 * np.eye(3), np.ones(3, bool))
    assert reference.same_geometry(here, here._replace(positions=here.positions + 1e-5, cell=here.cell * (1.0 + 1e-6)))
    assert not reference.same_geometry(here, here._replace(positions=here.positions + 1e-2))
    assert not reference.same_geometry(here, here._replace(cell=here.cell * 1.01))
    assert not reference.same_geometry(here, here._replace(numbers=np.array([8, 25])))
    assert not reference.same_geometry(here, here._replace(numbers=here.numbers[:1], positions=here.positions[:1]))
