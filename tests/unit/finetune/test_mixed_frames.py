"""Labelled frames of different atoms: padding, atomic reference energies by element, names of what is missing."""

import json

import ase
import ase.io
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import bulk, molecule
from safetensors.numpy import save_file

from bayes_mlff.core.errors import DataError, WeightsError
from bayes_mlff.core.units import HARTREE
from bayes_mlff.data import label_units
from bayes_mlff.data.graph import padded
from bayes_mlff.ensemble import atomic_energies
from bayes_mlff.ensemble import saved as ensemble
from bayes_mlff.ensemble.saved import Ensemble, SigmaFactors
from bayes_mlff.finetune import (
    EnsembleCalculator,
    config,
    doubts,
    evaluate,
    frames,
    laplace,
    run,
    sampling,
)
from bayes_mlff.models import layers, registry
from bayes_mlff.models.config import MACEConfig
from bayes_mlff.models.energetics import Prediction
from bayes_mlff.posterior.likelihood import Likelihood, PerAtom
from bayes_mlff.posterior.potential import Observations, potential_and_gradient
from bayes_mlff.posterior.prior import GaussianPrior
from bayes_mlff.testing.tiny import tiny_nequip

ELEMENTS = (1, 6, 8)
NEQUIP = tiny_nequip(ELEMENTS, r_max=2.5, energy_scales=(0.5,) * 3, energy_shifts=(-1.0, -2.0, -4.0))
MACE = MACEConfig(
    elements=ELEMENTS, r_max=2.5, hidden_irreps="2x0e+2x1o", num_interactions=2, max_ell=1, correlation=2,
    radial_widths=(4,), sigma_widths=(4,), average_neighbors=2.0, energy_scale=1.0, energy_shifts=(-1.0, -2.0, -4.0),
)  # fmt: skip
SIGMA = Likelihood(PerAtom(0.02), 0.01)


def labelled(names, seed=0, *, energy=True, stress=False):
    """Moved molecules by name, or crystals for `(side, repeat)`, with random labels; energies for all or some."""
    random, made = np.random.default_rng(seed), []
    wanted = [energy] * len(names) if isinstance(energy, bool) else energy
    for name, known in zip(names, wanted, strict=True):
        atoms = molecule(name) if isinstance(name, str) else bulk("C", "sc", a=name[0]).repeat(name[1])
        atoms.positions += 0.03 * random.normal(size=atoms.positions.shape)
        atoms.arrays["REF_forces"] = random.normal(size=atoms.positions.shape)
        if known:
            atoms.info["REF_energy"] = float(random.normal())
        if stress:
            atoms.info["REF_stress"] = 0.1 * random.normal(size=(3, 3))
        made.append(atoms)
    return made


def write(path, made):
    ase.io.write(path, made, format="extxyz")
    return str(path)


def read(tmp_path, targets="energy+forces", data=None, **sets):
    paths = {name: write(tmp_path / f"{name}.xyz", made) for name, made in sets.items()}
    return frames.read(config.parse({"data": paths | (data or {}), "targets": targets}))


MIXED = ["CH4", "H2O", "CH3CH2OH", "H2O", "CH4", "H2"]
FEW, CRYSTALS = ["H2O", "CH4"], [(1.8, (1, 1, 1)), (1.9, (2, 1, 1))]


@pytest.mark.parametrize(
    ("architecture", "names"), [(NEQUIP, FEW), (MACE, FEW), (NEQUIP, CRYSTALS)], ids=["nequip", "mace", "crystals"]
)
def test_padded_frames_are_as_probable_as_alone_and_so_is_their_gradient(architecture, names, tmp_path):
    stress = names is CRYSTALS
    parsed = config.parse({"data": {"train": "-"}, "targets": "energy+forces+stress" if stress else "energy+forces"})
    train = read(tmp_path, parsed.targets, train=labelled(names, stress=stress)).train
    potential = registry.initialize(architecture, 0, jnp.float64)
    predict = ensemble.flat_predictor(architecture, with_stress=stress)
    params, likelihood = potential.flat()[0], SIGMA if stress else SIGMA._replace(stress_sigma=None)
    prior = GaussianPrior(jnp.zeros_like(params), float("inf"))

    def potentials(used):
        graphs = frames.graphs({"train": used}, architecture.elements, architecture.r_max, dtype=np.float64)["train"]
        labels = sampling.fill(parsed, used, graphs, np.zeros(used.size))
        value_and_grad = potential_and_gradient(predict, prior, used.size, prefer_newest=False, at_once=used.size)
        found = jax.jit(value_and_grad)(params, jax.random.key(0), Observations(labels, likelihood))
        return graphs, jax.jit(predict)(params, graphs), found

    graphs, together, (u, gradient) = potentials(train)
    assert graphs.positions.shape[1] == max(train.atoms) > min(train.atoms)
    mean_u = mean_gradient = 0.0
    for index, n in enumerate(train.atoms):
        own, alone, (value, slope) = potentials(train.take(np.array([index])).resized(n))
        assert own.positions.shape[1] == n
        np.testing.assert_allclose(together.energy[index], alone.energy[0], rtol=1e-10)
        np.testing.assert_allclose(together.forces[index, :n], alone.forces[0], atol=1e-10)
        np.testing.assert_allclose(together.force_sigma[index, :n], alone.force_sigma[0], rtol=1e-10)
        assert not np.any(together.forces[index, n:])
        if stress:
            np.testing.assert_allclose(together.stress[index], alone.stress[0], atol=1e-10)
        mean_u, mean_gradient = mean_u + value / train.size, mean_gradient + slope / train.size
    assert float(u) == pytest.approx(float(mean_u), rel=1e-10)
    np.testing.assert_allclose(gradient, mean_gradient, rtol=1e-8, atol=1e-8 * np.abs(gradient).max())


def test_graphs_of_a_set_are_padded_to_the_widest_of_all(tmp_path):
    sets = read(tmp_path, train=labelled(["H2", "H2O"]), test=labelled(["CH4"], 1))
    made = frames.graphs(sets.named(), ELEMENTS, 2.5)
    assert made["train"].neighbors.shape == (2, 5, 4) and made["test"].neighbors.shape == (1, 5, 4)
    np.testing.assert_array_equal(made["train"].node_mask.sum(axis=1), [2, 3])
    np.testing.assert_array_equal(made["train"].edge_mask.sum(axis=(1, 2)), [2, 6])
    graph = jax.tree.map(lambda x: x[0], made["test"])
    assert all(np.array_equal(a, b) for a, b in zip(graph, padded(graph, 5, 4), strict=True))


def test_molecules_may_differ_between_npz_files_and_pbc_between_frames(tmp_path):
    for name in ("H2O", "CH4"):
        atoms = molecule(name)
        moved = atoms.positions + np.array([0.0, 0.1])[:, None, None] * np.eye(len(atoms), 3)
        np.savez(tmp_path / f"{name}.npz", z=atoms.numbers, R=moved, E=np.zeros(2), F=np.zeros_like(moved))
    data = {"train": str(tmp_path / "H2O.npz"), "test": str(tmp_path / "CH4.npz")}
    sets = frames.read(config.parse({"data": data}))
    assert sets.train.numbers.tolist() == [[8, 1, 1, 0, 0]] * 2 and sets.atomic_numbers.tolist() == [1, 6, 8]
    assert sets.test.structure(1).numbers.tolist() == [6, 1, 1, 1, 1]
    mixed = read(tmp_path, train=labelled(["H2O", (1.8, (2, 1, 1))])).train
    assert mixed.structure(1).is_periodic and not mixed.structure(0).pbc.any() and mixed.atoms.tolist() == [3, 2]
    with_stress = labelled(["H2O", (1.8, (1, 1, 1))], stress=True)
    with pytest.raises(DataError, match="holds other frames than crystals, frame 0; allowed: targets without stress"):
        read(tmp_path, "energy+forces+stress", train=with_stress)


def test_energies_are_missing_everywhere_or_nowhere(tmp_path):
    none = read(tmp_path, "forces", train=labelled(MIXED, energy=False), test=labelled(["H2O"], 1, energy=False))
    assert none.train.energy is None and none.test.energy is None
    partly = labelled(MIXED, energy=[True, True, False, True, False, True])
    with pytest.raises(DataError, match=r"data.train: frame 2 lacks REF_energy, which others have"):
        read(tmp_path, "forces", train=partly)
    with pytest.raises(DataError, match="frame 2 lacks REF_energy"):
        read(tmp_path, train=partly)
    with pytest.raises(DataError, match="frame 0 lacks REF_energy; present"):
        read(tmp_path, train=labelled(MIXED, energy=False))
    with pytest.raises(DataError, match=r"data.test: no energies, which data.train has"):
        read(tmp_path, "forces", train=labelled(MIXED), test=labelled(["H2O"], 1, energy=False))
    water = molecule("H2O")
    arrays = {"z": water.numbers, "R": water.positions[None], "F": np.zeros((1, 3, 3))}
    np.savez(tmp_path / "a.npz", **arrays)
    raw = {"data": {"train": str(tmp_path / "a.npz")}}
    assert frames.read(config.parse(raw | {"targets": "forces"})).train.energy is None
    with pytest.raises(DataError, match="no array E"):
        frames.read(config.parse(raw))
    np.savez(tmp_path / "a.npz", **arrays, E=np.array([np.nan]))
    with pytest.raises(DataError, match="E is not finite"):
        frames.read(config.parse(raw | {"targets": "forces"}))


def test_only_frames_of_the_same_atoms_are_duplicates(tmp_path):
    water, sulfide = molecule("H2O"), molecule("H2O")
    sulfide.numbers[0] = 16
    made = labelled(["CH4", "H2O", "H2O", "H2O"])
    for atoms in made[1:]:
        atoms.positions = water.positions
    made[3].numbers = sulfide.numbers
    with pytest.raises(DataError, match=r"1 pairs of geometries are the same .*\(train 2 = train 1;"):
        read(tmp_path, train=made)
    assert read(tmp_path, train=[made[0], *made[2:]]).train.size == 3
    other = labelled(["CH3CH2OH", "H2O"], 1)
    other[1].positions = water.positions + 1e-4
    with pytest.raises(DataError, match=r"1 pairs .*\(test 1 = train 1;"):
        read(tmp_path, train=[made[0], *made[2:]], test=other)


def test_close_atoms_are_named_by_their_frame_and_padding_is_not_near(tmp_path):
    made = labelled(MIXED)
    made[4].positions[2] = made[4].positions[0] + 0.1
    with pytest.raises(DataError, match=r"data.train: frame 4: atoms 0 and 2 are closer"):
        read(tmp_path, train=made)


def test_parts_drawn_from_a_mixed_file_keep_frames_whole(tmp_path):
    whole = labelled(MIXED * 3)
    sets = read(tmp_path, train=whole, data={"validation_frames": 5, "test_frames": 4, "frames": 6})
    seen = []
    for used in sets.named().values():
        for index in range(used.size):
            structure = used.structure(index)
            same = [
                atoms for atoms in whole
                if len(atoms) == len(structure.numbers) and np.allclose(atoms.positions, structure.positions)
            ]  # fmt: skip
            assert len(same) == 1 and same[0].info["REF_energy"] == pytest.approx(used.energy[index])
            np.testing.assert_allclose(used.forces[index, : len(same[0])], same[0].arrays["REF_forces"], atol=1e-7)
            seen.append(id(same[0]))
    assert len(set(seen)) == 15


def test_the_digest_ignores_padding_and_the_force_rms_counts_atoms(tmp_path):
    alone = read(tmp_path, train=labelled(["H2", "H2O"]))
    padding = read(tmp_path, train=labelled(["H2", "H2O"]), test=labelled(["CH4"], 1))
    assert padding.train.numbers.shape == (2, 5) and alone.digest() == padding.digest()
    components = np.concatenate([atoms.arrays["REF_forces"].ravel() for atoms in labelled(["H2", "H2O"])])
    for train in (alone.train, padding.train):
        assert train.force_rms == pytest.approx(np.sqrt(np.mean(components**2)))


def test_offsets_are_those_of_elements(tmp_path):
    one = read(tmp_path, train=labelled(["H2O"] * 4)).train
    network = np.random.default_rng(1).normal(size=(2, 4))
    found = atomic_energies.offsets(NEQUIP, network, one.numbers, one.energy)
    assert found.shape == (2, 3) and not found[:, 1].any(), "carbon is in no frame"
    level = atomic_energies.atomic_reference_energy(NEQUIP, found, one.numbers)
    np.testing.assert_allclose(np.mean(network + level - one.energy[None], axis=1), 0.0, atol=1e-12)
    np.testing.assert_allclose(level[:, :1], -6.0 - np.mean(network - one.energy - 6.0, axis=1)[:, None], rtol=1e-12)
    np.testing.assert_allclose(found[:, 0], 2.0 * found[:, 2], rtol=1e-12)

    many = read(tmp_path, train=labelled(MIXED)).train
    shifts, network = np.array([10.0, -200.0, 3000.0]), np.zeros((1, 6))
    counts = np.array([[4, 1, 0], [2, 0, 1], [6, 2, 1], [2, 0, 1], [4, 1, 0], [2, 0, 0]])
    np.testing.assert_array_equal(atomic_energies.composition(many.numbers, ELEMENTS), counts)
    exact = many._replace(energy=-counts @ (shifts - np.array(NEQUIP.energy_shifts)))
    np.testing.assert_allclose(
        atomic_energies.offsets(NEQUIP, network, exact.numbers, exact.energy), shifts[None], rtol=1e-10
    )
    np.testing.assert_allclose(
        atomic_energies.atomic_reference_energy(NEQUIP, shifts[None], many.numbers)[0], exact.energy, rtol=1e-10
    )
    with pytest.raises(DataError, match=r"got elements \['O'\]; allowed: the model's elements \['H', 'C'\]"):
        atomic_energies.composition(many.numbers, ELEMENTS[:2])


def test_padding_and_numbers_of_atoms_in_what_is_compared(tmp_path):
    used = read(tmp_path, train=labelled(MIXED)).train
    real, random = used.node_mask, np.random.default_rng(2)
    forces = np.where(real[..., None], random.normal(size=(2, *used.forces.shape)), 0.0)
    sigma = np.where(real, random.uniform(0.5, 2.0, (2, *real.shape)), 1.0)
    prediction = Prediction(random.normal(size=(2, 6)), forces, None, sigma)
    parts = (np.zeros((1, 9)), np.zeros((2, 3)), SigmaFactors(energy=2.0, forces=0.6), PerAtom(0.03), 1.0, "")
    samples = Ensemble(NEQUIP, *parts)
    found = evaluate.outcome(prediction, used, samples)
    assert found.forces.error.size == 3 * used.atoms.sum() == found.forces.sigma.size
    np.testing.assert_array_equal(np.bincount(found.forces.frame), 3 * used.atoms)
    error = np.concatenate([(forces.mean(axis=0) - used.forces)[i, :n].ravel() for i, n in enumerate(used.atoms)])
    np.testing.assert_allclose(found.forces.error, error, rtol=1e-10)
    between = np.var(prediction.energy, axis=0, ddof=1)
    np.testing.assert_allclose(found.energy.sigma, 2.0 * np.sqrt(between + (0.03 * used.atoms) ** 2), rtol=1e-10)
    total = evaluate.outcome(prediction, used, samples._replace(energy_sigma_ev=0.03)).energy.sigma
    np.testing.assert_allclose(total, 2.0 * np.sqrt(between + 0.03**2), rtol=1e-10)
    assert evaluate.rescaling(found).forces == pytest.approx(
        np.sqrt(np.mean(error**2) / np.mean(found.forces.sigma**2)), rel=1e-10
    )
    rmse = evaluate.force_rmse(prediction, used)
    np.testing.assert_allclose(rmse[0], np.sqrt(np.mean((forces[0] - used.forces)[real] ** 2)), rtol=1e-10)
    numbers = evaluate.summarise(found, 1.0, 1.0)
    assert numbers["forces_kcal_mol_a"]["count"] == 3 * used.atoms.sum()
    assert all(len(numbers["forces_kcal_mol_a"]["coverage_intervals"][level]) == 2 for level in ("0.5", "0.95"))
    errors = evaluate.factor_errors(found)
    assert errors.energy is not None and errors.forces is not None and errors.stress is None
    allowed = evaluate.summarise(found, 1.0, 1.0, evaluate.FactorErrors(forces=0.3))["forces_kcal_mol_a"]
    deviations = np.abs(error / found.forces.sigma)
    for level, bound in (("0.5", 0.6744898), ("0.95", 1.9599640)):
        low, high = allowed["coverage_intervals"][level]["factor"]
        structures = allowed["coverage_intervals"][level]["structures"]
        share, narrow, wide = (np.mean(deviations <= x * bound) for x in (1.0, np.exp(-0.3), np.exp(0.3)))
        assert narrow < share < wide
        assert low == pytest.approx(max(0.0, share - np.hypot(share - structures[0], share - narrow)))
        assert high == pytest.approx(min(1.0, share + np.hypot(structures[1] - share, wide - share)))
    without = evaluate.outcome(prediction, used._replace(energy=None), samples)
    assert without.energy is None and evaluate.rescaling(without).energy == 1.0
    assert set(evaluate.summarise(without, 1.0, 1.0)) == {"forces_kcal_mol_a"}


def test_units_are_doubted_within_compositions(tmp_path):
    used = read(tmp_path, train=labelled(MIXED * 3)).train
    random, counts = np.random.default_rng(3), atomic_energies.composition(used.numbers, ELEMENTS)
    energy = random.normal(size=used.size)
    forces = np.where(used.node_mask[..., None], random.normal(size=used.forces.shape), 0.0)
    prediction = Prediction(energy[None], forces[None], None, np.ones((1, *used.node_mask.shape)))
    stated = label_units.settle(config.parse({"data": {"train": "a.xyz"}}).data, {}, "a.xyz", "data.train")
    levelled = counts @ np.array([300.0, -2000.0, 8000.0])
    right = used._replace(energy=energy + levelled, forces=forces)
    doubts.check_units(prediction, right, stated, "train")
    with pytest.raises(DataError, match=r"energy_unit: got eV, .* look like hartree "):
        doubts.check_units(prediction, right._replace(energy=(energy + levelled) / HARTREE), stated, "train")
    with pytest.raises(DataError, match=r"forces_unit: got eV/A, .* look like -eV/A "):
        doubts.check_units(prediction, right._replace(forces=-forces), stated, "train")
    # Of each composition one frame: nothing is known about its energy.
    index = np.array([0, 1, 2, 5] * 3)
    single = right.take(index)._replace(
        numbers=np.repeat(np.arange(1, 13)[:, None], 9, axis=1), energy=energy[index] / HARTREE
    )
    few = Prediction(*(None if x is None else x[:, index] for x in prediction))
    doubts.check_units(few, single._replace(forces=forces[index]), stated, "train")


def test_curvatures_are_sums_over_frames_of_any_size(tmp_path):
    train = read(tmp_path, train=labelled(MIXED[:3])).train
    potential = registry.initialize(NEQUIP, 0, jnp.float64)
    predict, index = ensemble.flat_predictor(NEQUIP, with_stress=False), layers.last_readout(potential)
    parsed = config.parse({"data": {"train": "-"}})

    def curvatures(used, likelihood):
        graphs = frames.graphs({"train": used}, ELEMENTS, NEQUIP.r_max, dtype=np.float64)["train"]
        labels = sampling.fill(parsed, used, graphs, np.zeros(used.size))
        return laplace.curvatures(predict, likelihood, labels, potential.flat()[0], index)

    together = curvatures(train, Likelihood(PerAtom(0.02)))
    alone = [
        curvatures(train.take(np.array([i])).resized(n), Likelihood(0.02 * float(n))) for i, n in enumerate(train.atoms)
    ]
    for kind, parts in zip(together, zip(*alone, strict=True), strict=True):
        assert kind.count == sum(part.count for part in parts)
        assert kind.square == pytest.approx(sum(part.square for part in parts), rel=1e-9)
        np.testing.assert_allclose(kind.gram, sum(part.gram for part in parts), rtol=1e-9)
    found = laplace.Evidence(1.0, (4.0, 9.0), 1.0, np.eye(2))
    labels = sampling.fill(parsed, train, frames.graphs({"train": train}, ELEMENTS, 2.5)["train"], np.zeros(3))
    assert laplace.fitted(Likelihood(PerAtom(0.02)), labels, found).energy_sigma == PerAtom(0.01)


def test_sigma_per_atom_is_stored_and_predicted_for_every_size(tmp_path):
    assert config.parse(
        {"data": {"train": "-"}, "likelihood": {"energy_sigma": "3 meV/atom"}}
    ).energy_sigma_ev == PerAtom(3e-3)
    assert config.parse({"data": {"train": "-"}, "likelihood": {"energy_sigma": "3 meV"}}).energy_sigma_ev == 3e-3
    samples = registry.initialize(NEQUIP, 0).flat()[0][None]
    for sigma in (PerAtom(3e-3), 3e-3):
        parts = (samples, np.array([[1.0, 2.0, 3.0]]), SigmaFactors(energy=2.0), sigma, 1.0, "")
        ensemble.save(Ensemble(NEQUIP, *parts), tmp_path / "a.safetensors")
        loaded = ensemble.load(tmp_path / "a.safetensors")
        assert loaded.energy_sigma_ev == sigma
        calculator = EnsembleCalculator(loaded)
        for name in ("H2", "CH4", "H2"):
            atoms = molecule(name)
            atoms.calc = calculator
            atoms.get_potential_energy()
            wanted = 2.0 * 3e-3 * (len(atoms) if isinstance(sigma, PerAtom) else 1)
            assert calculator.results["energy_sigma"] == pytest.approx(wanted, rel=1e-5)


def test_files_of_format_1_have_one_offset_for_all_structures(tmp_path):
    samples = np.asarray(registry.initialize(NEQUIP, 0).flat()[0])[None]
    metadata = {
        "format": "1",
        "config": NEQUIP.model_dump_json(),
        "factors": json.dumps(SigmaFactors()._asdict()),
        "energy_sigma_ev": "0.5",
        "stress_sigma_ev_a3": "0.25",
        "finetune": "",
    }
    path = tmp_path / "old.safetensors"
    save_file({"samples": samples, "offset_ev": np.array([7.0])}, path, metadata=metadata)
    old = ensemble.load(path)
    assert old.energy_sigma_ev == 0.5 and old.atomic_reference_energy(np.array([8, 1, 1])) == pytest.approx(
        [-6.0 - 7.0]
    )
    assert old.atomic_reference_energy(np.array([[8, 1, 1], [1, 1, 0]])).tolist() == [[-13.0, -9.0]]
    atoms = molecule("H2O")
    atoms.calc = EnsembleCalculator(old)
    ensemble.save(old._replace(offset_ev=np.zeros((1, 2))), path)
    with pytest.raises(WeightsError, match="offset_ev has shape"):
        ensemble.load(path)
    new = old._replace(offset_ev=np.array([[2.0, 5.0, 3.0]]))
    ensemble.save(new, path)
    assert EnsembleCalculator(path).get_potential_energy(atoms) == pytest.approx(atoms.get_potential_energy())


def test_elements_of_all_sets_are_kept(tmp_path):
    registry.save(registry.initialize(NEQUIP, 0), tmp_path / "model.safetensors", {})
    paths = {"train": labelled(["CH4"] * 2), "test": labelled(["H2O"], 1)}
    data = {name: write(tmp_path / f"{name}.xyz", made) for name, made in paths.items()}
    raw = {"data": data, "model": str(tmp_path / "model.safetensors")}
    task = run.prepare(config.parse(raw))
    assert task.potential.config.elements == (1, 6, 8)
    del raw["data"]["test"]
    assert run.prepare(config.parse(raw)).potential.config.elements == (1, 6)
