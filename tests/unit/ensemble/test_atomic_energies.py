"""Which energies are known: compositions that labels determine, and an honest σ of energies that are not learnt."""

import json
import warnings

import ase
import numpy as np
import pytest
from ase.build import molecule

from bayes_mlff.core.errors import DataError
from bayes_mlff.data.labelled_frames import Frames
from bayes_mlff.ensemble import atomic_energies
from bayes_mlff.ensemble import saved as ensemble
from bayes_mlff.ensemble.saved import Ensemble, SigmaFactors
from bayes_mlff.finetune import EnsembleCalculator, OutsideTrainingWarning, energy_sigma, evaluate
from bayes_mlff.finetune.evaluate import Quality
from bayes_mlff.models import registry
from bayes_mlff.models.energetics import Prediction
from bayes_mlff.posterior.likelihood import PerAtom
from bayes_mlff.testing.tiny import tiny_nequip

ELEMENTS = (1, 6, 8)
SMALL = tiny_nequip(ELEMENTS, r_max=2.5, energy_scales=(0.5,) * 3, energy_shifts=(-1.0, -2.0, -4.0))
ETHANOL, WATER, METHANE = [6, 2, 1], [2, 0, 1], [4, 1, 0]


def test_compositions_with_levels_of_their_own_need_not_add_up(tmp_path):
    """The fourth composition is 0.5 eV off the sum of two others for one sample, and 0.1 eV for the other."""
    own = atomic_energies.OwnLevels(
        np.array([ETHANOL, WATER, METHANE, [6, 1, 1]]), np.array([[1.0, 2.0, 3.0, 5.5], [1.0, 2.0, 3.0, 5.1]])
    )
    per_atom = atomic_energies.per_atom(own.compositions, own.offset_ev)
    flat = registry.initialize(SMALL, 0).flat()[0]
    parts = (SMALL, np.stack([flat, flat]), per_atom, SigmaFactors(), 0.01, 1.0, "seed: 1\n")
    made = Ensemble(*parts, compositions=own.compositions[:3], own=own)
    ensemble.save(made, tmp_path / "ensemble.safetensors")
    read = ensemble.load(tmp_path / "ensemble.safetensors")
    assert ensemble.same(made, read)
    assert not ensemble.same(made, read._replace(own=own._replace(offset_ev=own.offset_ev + 1e-9)))
    assert not ensemble.same(made, read._replace(own=None))
    isolated = np.array(SMALL.energy_shifts)
    for counts, offset in zip(own.compositions, own.offset_ev.T, strict=True):
        for times in (1, 3):
            numbers = np.repeat(ELEMENTS, times * counts)
            found = read.atomic_reference_energy(numbers)
            np.testing.assert_allclose(found, times * (counts @ isolated - offset), rtol=1e-12)
            assert read.knows_energy(numbers)
    several = np.array([[8, 1, 1, 0, 0], [8, 1, 1, 1, 1]])  # water, and one that only adds up
    assert read.knows_energy(several).tolist() == [True, False]
    np.testing.assert_allclose(read.atomic_reference_energy(several)[:, 0], -6.0 - own.offset_ev[:, 1])
    twice = own._replace(
        compositions=np.array([WATER, [4, 0, 2]]), offset_ev=np.array([[2.0, 7.0], [2.0, 7.5]])
    )  # the larger has labels of its own
    np.testing.assert_allclose(per_atom @ [4, 0, 2] + twice.beyond(per_atom, np.array([4, 0, 2])), [7.0, 7.5])
    np.testing.assert_allclose(per_atom @ [8, 0, 4] + twice.beyond(per_atom, np.array([8, 0, 4])), [14.0, 15.0])
    by_elements = atomic_energies.atomic_reference_energy(SMALL, per_atom, several[1])
    np.testing.assert_allclose(read.atomic_reference_energy(several)[:, 1], by_elements)


def test_energies_are_known_where_labelled_compositions_add_up():
    one = atomic_energies.independent(np.array([ETHANOL] * 5))
    assert one.tolist() == [ETHANOL]
    known = [ETHANOL, [12, 4, 2], WATER, [0, 0, 0]]
    assert atomic_energies.determined(np.array(known), one).tolist() == [True, True, False, True]
    three = atomic_energies.independent(np.array([WATER, METHANE, WATER, ETHANOL, METHANE]))
    assert len(three) == 3 and atomic_energies.determined(np.array([[2, 0, 0], [0, 1, 2], [7, 5, 3]]), three).all()
    two = atomic_energies.independent(np.array([WATER, METHANE]))
    # CH4 + H2O, and H8C2 + ... of the same atoms, but not hydrogen alone.
    assert atomic_energies.determined(np.array([[6, 1, 1], [2, 0, 0], [2, -1, 1], [8, 0, 4]]), two).tolist() == [
        True, False, False, True,
    ]  # fmt: skip
    assert not atomic_energies.determined(np.array([ETHANOL]), atomic_energies.independent(np.zeros((0, 3), int)))[0]


def samples(**change):
    flat = registry.initialize(SMALL, 0).flat()[0]
    parts = (SMALL, np.stack([flat, 1.01 * flat]), np.zeros((2, 3)), SigmaFactors(), 0.01, 1.0, "")
    return Ensemble(*parts)._replace(**change)


def test_energies_of_other_compositions_are_flagged_once(tmp_path):
    trained = samples(compositions=np.array([ETHANOL]), state={"charge": 0.0})
    ensemble.save(trained, tmp_path / "a.safetensors")
    calculator = EnsembleCalculator(tmp_path / "a.safetensors")
    assert calculator.ensemble.compositions.tolist() == [ETHANOL] and calculator.ensemble.state == {"charge": 0.0}
    inside, outside = molecule("CH3CH2OH"), molecule("H2O")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calculator.calculate(inside)
        assert np.isfinite(calculator.results["energy_sigma"])
    with pytest.warns(OutsideTrainingWarning, match="H2O: its composition is no linear combination"):
        calculator.calculate(outside)
    assert calculator.results["energy_sigma"] == np.inf
    assert np.isfinite(calculator.results["forces"]).all() and np.isfinite(calculator.results["forces_sigma"]).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calculator.calculate(molecule("CH4"))
        assert calculator.results["energy_sigma"] == np.inf
    inside.info["charge"] = 1
    with pytest.raises(DataError, match=r"atoms: got charge 1; allowed: 0"):
        calculator.calculate(inside)


def test_without_labelled_energies_or_what_they_are_of_it_says_so():
    water = molecule("H2O")
    for change, said, finite in (
        ({"compositions": np.zeros((0, 3), int)}, "no labelled frame has an energy", False),
        ({"compositions": np.array([WATER]), "factors": SigmaFactors(energy=float("inf"))}, "too few frames", False),
        ({}, "the file does not say", True),
    ):
        calculator = EnsembleCalculator(samples(**change))
        with pytest.warns(OutsideTrainingWarning, match=said):
            calculator.calculate(water)
        assert np.isfinite(calculator.results["energy_sigma"]) == finite


def frames_of(names):
    made = [molecule(name) for name in names]
    most = max(map(len, made))
    numbers = np.array([np.pad(a.numbers, (0, most - len(a))) for a in made])
    positions = np.array([np.pad(a.positions, ((0, most - len(a)), (0, 0))) for a in made])
    rest = np.zeros((len(made), 3, 3)), np.arange(float(len(made))), np.zeros(positions.shape), None
    return Frames(numbers, np.zeros((len(made), 3), bool), positions, *rest)


def test_metrics_leave_energies_out_that_are_not_known():
    used = frames_of(["CH3CH2OH", "H2O", "CH3OCH3", "CH4"])
    zeros = np.zeros((2, 4, 9, 3))
    prediction = Prediction(np.random.default_rng(0).normal(size=(2, 4)), zeros, None, np.ones((2, 4, 9)))
    found = evaluate.outcome(prediction, used, samples(compositions=np.array([ETHANOL])))
    assert found.energy.reference.tolist() == [0.0, 2.0] and found.energy.frame.tolist() == [0, 2]
    assert found.forces.error.size == 3 * used.atoms.sum()
    assert evaluate.outcome(prediction, used, samples(compositions=np.array([[0, 0, 1]]))).energy is None
    whole = evaluate.outcome(prediction, used, samples(compositions=np.array([ETHANOL, WATER, METHANE])))
    assert whole.energy.error.size == 4
    unknown = samples(compositions=np.array([ETHANOL]), factors=SigmaFactors(energy=float("inf")))
    summary = evaluate.summarise(evaluate.outcome(prediction, used, unknown), 1.0, 1.0)
    assert set(summary["energy_kcal_mol"]) == {"count", "rmse", "mae"}
    json.dumps(summary, allow_nan=False)


def test_scatter_counts_what_was_fitted():
    error, atoms = np.array([0.3, -0.3, 0.6, -0.6]), np.array([3, 3, 6, 6])
    assert energy_sigma.scatter(error, atoms, 1, 0.01) == pytest.approx(np.sqrt(0.9 / 3))
    assert energy_sigma.scatter(error, atoms, 2, PerAtom(0.01)).sigma == pytest.approx(np.sqrt(4 * 0.01 / 2))
    assert energy_sigma.scatter(error, atoms, 1, 5.0) == 5.0
    assert energy_sigma.scatter(error, atoms, 4, 0.01) is None
    assert energy_sigma.factor(None, 1.0, 0) == float("inf")
    assert energy_sigma.factor(None, 1.0, 10) == pytest.approx(2.2281 / 1.96, rel=1e-3)


@pytest.mark.parametrize("count", [5, 10, 20])
def test_intervals_of_energies_that_are_not_learnt_hold_what_they_say(count):
    """Normal errors, samples that differ by what says nothing of them, and few validation frames.

    The share of 95 % intervals that hold the truth is estimated from 2000 repetitions of 20 frames, with a standard
    error of 0.3 % at most; a right one is outside 93.5 to 97.5 % with a probability below 1e-4.
    """
    random, inside, before = np.random.default_rng(3), [], []
    for _ in range(2000):
        between = 0.1 * random.gamma(0.7, 1.0, count + 20)  # a variance, as unequal as those that were measured
        train = random.normal(size=30)
        error = random.normal(size=count + 20) - train.mean()
        fixed = energy_sigma.scatter(train - train.mean(), np.ones(30), 1, 0.05)
        for shares, width, allowed in ((inside, fixed, True), (before, 0.05, False)):
            sigma = np.sqrt(between + width**2)
            seen = Quality(error[:count], error[:count], sigma[:count], np.arange(count))
            scaled = float(np.sqrt(np.mean(seen.error**2) / np.mean(sigma[:count] ** 2)))
            used = energy_sigma.factor(seen, scaled, 29) if allowed else scaled
            shares.append(np.mean(np.abs(error[count:]) < 1.95996 * used * sigma[count:]))
    assert 0.935 < np.mean(inside) < 0.975
    assert np.mean(before) < 0.9, "what this is about does not show"


def test_frames_of_one_atom_have_a_composition():
    used = frames_of(["CH4"])
    assert samples(compositions=np.array([METHANE])).knows_energy(used.numbers).all()
    assert not samples(compositions=np.array([METHANE])).knows_energy(ase.Atoms("O").numbers)
