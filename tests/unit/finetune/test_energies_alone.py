"""Energies alone as targets: what is read, what energies are per, their zero, and that no forces come out of it."""

import ase
import ase.io
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.singlepoint import SinglePointCalculator

from bayes_mlff.core.errors import ConfigError, DataError
from bayes_mlff.ensemble import saved
from bayes_mlff.ensemble.calculator import EnsembleCalculator
from bayes_mlff.ensemble.saved import Ensemble, SigmaFactors
from bayes_mlff.finetune import config, energy_levels, evaluate, frames, identity, sampling
from bayes_mlff.models import registry
from bayes_mlff.models.layers import last_sigma_bias
from bayes_mlff.posterior.likelihood import Likelihood
from bayes_mlff.posterior.noise_levels import noise_levels
from bayes_mlff.posterior.potential import Observations, potential_and_gradient
from bayes_mlff.posterior.prior import GaussianPrior
from bayes_mlff.report import program_export
from bayes_mlff.testing.tiny import tiny_nequip

TINY = tiny_nequip((1, 8), energy_shifts=(-1.0, -3.0))
OXYGENS = ["O"]


def structures(count=6, *, forces=False):
    """H2O and H2O2 in turn, with an energy per oxygen atom of -1, -2, ... eV."""
    random, made = np.random.default_rng(3), []
    for index in range(count):
        atoms = ase.Atoms(
            "OHHO"[: 3 + index % 2], [[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0], [0.3, 0.3, 1.4]][: 3 + index % 2]
        )
        atoms.positions += 0.03 * random.normal(size=atoms.positions.shape)
        atoms.info["binding"] = -1.0 - index
        if forces:
            atoms.calc = SinglePointCalculator(atoms, energy=5.0, forces=random.normal(size=(len(atoms), 3)))
        made.append(atoms)
    return made


def written(tmp_path, rows, name="a.xyz"):
    ase.io.write(tmp_path / name, rows, format="extxyz")
    return str(tmp_path / name)


def parsed(path, *, targets="energy", data=None, **change):
    keys = {"train": path, "xyz_energy_key": "binding", "energy_per": OXYGENS} | (data or {})
    return config.parse({"data": keys, "targets": targets} | change)


def stated(one, sets):
    return identity.stated(one, registry.initialize(TINY, 0), sets.train)


def test_files_without_forces_are_read_and_forces_that_are_there_are_not_used(tmp_path):
    plain = frames.read(parsed(written(tmp_path, structures())))
    np.testing.assert_allclose(plain.train.energy, [-1.0, -4.0, -3.0, -8.0, -5.0, -12.0])
    assert not plain.train.known_forces.any() and not plain.train.forces.any()
    assert not any("forces" in remark or "force " in remark for remark in plain.remarks)
    whole = frames.read(parsed(written(tmp_path, structures(forces=True), "b.xyz")))
    assert "data.train: the forces of the file (forces) are not used" in whole.remarks[0:2][-1]
    assert not whole.train.known_forces.any()
    np.testing.assert_array_equal(whole.train.energy, plain.train.energy)
    with pytest.raises(DataError, match="frame 0 lacks REF_forces"):
        frames.read(parsed(written(tmp_path, structures()), targets="energy+forces"))
    read = frames.read(parsed(written(tmp_path, structures(forces=True), "b.xyz"), targets="energy+forces"))
    assert read.train.known_forces.any()


def test_npz_without_forces_is_read(tmp_path):
    arrays = {
        "z": np.array([8, 1]),
        "R": np.array([[[0.0, 0, 0], [x, 0, 0]] for x in (0.9, 1.0, 1.1)]),
        "E": np.arange(3.0),
    }
    np.savez(tmp_path / "a.npz", **arrays)
    raw = {"data": {"train": str(tmp_path / "a.npz")}, "targets": "energy"}
    assert not frames.read(config.parse(raw)).train.known_forces.any()
    with pytest.raises(DataError, match="F"):
        frames.read(config.parse(raw | {"targets": "forces"}))
    np.savez(tmp_path / "a.npz", **arrays, F=np.full((3, 2, 3), np.nan))
    assert "the forces of the file (F) are not used" in frames.read(config.parse(raw)).remarks[0]


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        ({"energy_per": ["Xx"]}, r"data\.energy_per"),
        ({"energy_per": []}, r"data\.energy_per"),
        ({"energy_per": ["O", "O"]}, r"data\.energy_per"),
        ({"energy_per": "molecule"}, r"data\.energy_per"),
    ],
)
def test_what_energies_are_per_is_checked(change, phrase):
    with pytest.raises(ConfigError, match=phrase):
        parsed("a.xyz", data=change)


def test_energies_are_made_total(tmp_path):
    path = written(tmp_path, structures())
    for per, counts in (("structure", [1, 1, 1]), ("atom", [3, 4, 3]), (["H"], [2, 2, 2]), (["O", "H"], [3, 4, 3])):
        read = frames.read(parsed(path, data={"energy_per": per})).train
        np.testing.assert_allclose(read.energy[:3], np.multiply([-1.0, -2.0, -3.0], counts))
    with pytest.raises(DataError, match=r"frame 0 has no atom of C, N, per which energies are \(data.energy_per\)"):
        frames.read(parsed(path, data={"energy_per": ["C", "N"]}))


def test_the_zero_is_absolute_where_energies_are_per_atom_of_elements(tmp_path):
    path = written(tmp_path, structures())
    sets = frames.read(parsed(path))
    assert stated(parsed(path), sets).likelihood.energy_zero == "absolute"
    total = parsed(path, data={"energy_per": "structure"})
    assert stated(total, sets).likelihood.energy_zero == "learnt"
    said = parsed(path, likelihood={"energy_zero": "learnt"})
    assert stated(said, sets).likelihood.energy_zero == "learnt"
    with pytest.raises(ConfigError, match=r"likelihood\.energy_zero: got 'absolute'"):
        stated(parsed(path, targets="forces", likelihood={"energy_zero": "absolute"}), sets)


def test_an_absolute_zero_fits_no_levels_and_knows_all_compositions(tmp_path):
    path = written(tmp_path, structures())
    sets = frames.read(parsed(path))
    absolute, learnt = (stated(parsed(path, likelihood={"energy_zero": z}), sets) for z in ("absolute", "learnt"))
    said = np.linspace(-1.0, 1.0, 6)[None]
    levels = energy_levels.settle(absolute, TINY, sets.train, said)
    assert not levels.pretrained.any() and not levels.learnt.any() and len(levels.compositions) == 2
    assert not energy_levels.of_samples(absolute, TINY, sets.train, levels, said).any()
    isolated = np.array([-5.0, -8.0] * 3)
    expected = np.sqrt(np.mean((said + isolated - sets.train.energy) ** 2))
    np.testing.assert_allclose(energy_levels.rmse(absolute, TINY, sets.train, levels, said), [expected])
    assert energy_levels.settle(learnt, TINY, sets.train, said).learnt.any()


def test_levels_that_leave_nothing_to_learn_are_refused(tmp_path):
    two = frames.read(parsed(written(tmp_path, structures(2))))
    learnt = parsed("a.xyz", likelihood={"energy_zero": "learnt"})
    with pytest.raises(DataError, match="reproduce the energies of all 2 frames"):
        energy_levels.check(learnt, two, (1, 8))
    energy_levels.check(parsed("a.xyz", likelihood={"energy_zero": "absolute"}), two, (1, 8))
    energy_levels.check(parsed("a.xyz", targets="energy+forces", likelihood={"energy_zero": "learnt"}), two, (1, 8))
    many = frames.read(parsed(written(tmp_path, structures(6))))
    only = many._replace(train=many.train.take(np.array([0, 2, 4])), test=many.train.take(np.array([1, 3])))
    with pytest.raises(DataError, match=r"data\.test: no frame has a composition"):
        energy_levels.check(learnt, only, (1, 8))


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """Prediction function without forces, flat weights, labels and the potential that they are of."""
    path = written(tmp_path_factory.mktemp("energies"), structures())
    potential, one = registry.initialize(TINY, 0), parsed(path)
    sets = frames.read(one)
    graphs = frames.graphs({"train": sets.train}, TINY.elements, TINY.r_max)["train"]
    labels = sampling.fill(stated(one, sets), sets.train, graphs, np.zeros(6))
    predict = saved.flat_predictor(TINY, with_stress=False, with_forces=False)
    return predict, potential.flat()[0], labels, potential


def test_energies_without_forces_are_those_with_them(filled):
    predict, flat, labels, _ = filled
    whole = jax.jit(saved.flat_predictor(TINY, with_stress=False))(flat, labels.graphs)
    alone = jax.jit(predict)(flat, labels.graphs)
    np.testing.assert_allclose(alone.energy, whole.energy, rtol=1e-6)
    np.testing.assert_array_equal(alone.force_sigma, whole.force_sigma)
    assert np.isnan(alone.forces).all() and np.isfinite(whole.forces).all()


def test_the_likelihood_has_the_term_of_the_energies_alone(filled):
    predict, flat, labels, _ = filled
    prior = GaussianPrior(jnp.zeros_like(flat), float("inf"))
    evaluate_potential = jax.jit(potential_and_gradient(predict, prior, 6, prefer_newest=False))
    value, gradient = evaluate_potential(flat, jax.random.key(0), Observations(labels, Likelihood(0.5)))
    error = np.asarray(predict(flat, labels.graphs).energy - labels.energy, np.float64)
    expected = np.mean(0.5 * (error / 0.5) ** 2) + np.log(0.5) + 0.5 * np.log(2 * np.pi)
    assert float(value) == pytest.approx(expected, rel=1e-5)
    assert np.isfinite(gradient).all() and np.asarray(gradient).any()


def test_cold_chains_level_the_energies_and_leave_the_sigma_of_forces(filled):
    predict, flat, labels, potential = filled
    level = noise_levels(predict, last_sigma_bias(potential), 6, floor_ev_a=0.1)
    params, levelled = jax.jit(level)(flat, Observations(labels, Likelihood(0.5)))
    error = np.asarray(predict(flat, labels.graphs).energy - labels.energy, np.float64)
    np.testing.assert_array_equal(params, flat)
    assert float(levelled.energy_sigma) == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-5)


@pytest.fixture(scope="module")
def ensemble():
    samples = registry.initialize(TINY, 0).flat()[0][None] * jnp.array([[1.0], [1.1]], jnp.float32)
    parts = (TINY, samples, np.zeros((2, 2)), SigmaFactors(), 0.1, 0.1, "targets: energy\n", np.eye(2, dtype=int))
    return Ensemble(*parts, learnt_forces=False)


def test_an_outcome_without_forces_has_metrics_of_energies_alone(ensemble, tmp_path):
    used = frames.read(parsed(written(tmp_path, structures()))).train
    energy = np.stack([used.energy + 5.3, used.energy + 5.5])
    found = evaluate.Prediction(
        energy, np.full((2, *used.forces.shape), np.nan), None, np.ones((2, *used.numbers.shape))
    )
    result = evaluate.outcome(found, used, ensemble, energy_units=np.array([1.0, 2.0] * 3))
    assert result.forces is None and result.energy is not None and result.energy.sigma is not None
    isolated = np.array([-5.0, -8.0] * 3)
    np.testing.assert_allclose(result.energy.error, (isolated + 5.4) / [1, 2, 1, 2, 1, 2])
    np.testing.assert_allclose(result.energy.reference, -np.arange(1.0, 7.0))
    np.testing.assert_allclose(result.energy.sigma, np.sqrt(0.1**2 + 0.02) / np.array([1, 2, 1, 2, 1, 2]))
    summary = evaluate.summarise(result, 1.0, 12.0)
    assert set(summary) == {"energy_kcal_mol"} and summary["energy_kcal_mol"]["large_error"] == 12.0
    assert summary["energy_kcal_mol"]["share_large"] == 0.5 and summary["energy_kcal_mol"]["auc_roc"] == 0.0
    assert evaluate.rescaling(result).forces == 1.0


def test_no_forces_are_offered(ensemble, tmp_path):
    path = tmp_path / "ensemble.safetensors"
    saved.save(ensemble, path)
    again = saved.load(path)
    assert not again.learnt_forces and saved.same(again, ensemble)
    atoms = structures(1)[0]
    atoms.calc = EnsembleCalculator(again)
    assert np.isfinite(atoms.get_potential_energy()) and atoms.calc.results["energy_sigma"] > 0.0
    assert not [name for name in atoms.calc.results if "forces" in name or "stress" in name]
    with pytest.raises(PropertyNotImplementedError, match=r"forces: the ensemble has learnt energies alone"):
        atoms.get_forces()
    with pytest.raises(ConfigError, match="targets: energy"):
        program_export.export(path, "ase", tmp_path / "out", structure=None)
    saved.save(ensemble._replace(learnt_forces=True), path)
    assert saved.load(path).learnt_forces
