"""What labelled files say beside numbers takes effect or is refused: units, held atoms, charge and spin, formats."""

import bz2
import gzip
import lzma

import ase.io
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixCartesian

from bayes_mlff.core.errors import ConfigError, DataError
from bayes_mlff.core.units import BOHR, HARTREE, KCAL_MOL
from bayes_mlff.data.label_units import FORCE_UNITS, parse
from bayes_mlff.data.labelled_files import LabelKeys, read_labelled
from bayes_mlff.finetune import config, evaluate, frames, sampling
from bayes_mlff.models.energetics import Prediction
from bayes_mlff.posterior.likelihood import Likelihood, log_likelihood
from bayes_mlff.posterior.training_set import labels_of
from tests.support.places import CASES


def read(path, targets="energy+forces", **data):
    return frames.read(config.parse({"data": {"train": str(path)} | data, "targets": targets}))


def moved(count, name="CH3CH2OH", seed=0):
    """Molecules with labels of no meaning in a calculator."""
    random, made = np.random.default_rng(seed), []
    for _ in range(count):
        atoms = molecule(name)
        atoms.positions += 0.05 * random.normal(size=atoms.positions.shape)
        forces = 0.1 * random.normal(size=atoms.positions.shape)
        atoms.calc = SinglePointCalculator(atoms, energy=float(random.normal()), forces=forces)
        made.append(atoms)
    return made


def test_a_file_that_states_bohr_and_hartree_is_read_in_them():
    good, stated = read(CASES / "et_good.npz"), read(CASES / "et_bohr_all.npz")
    for field in ("positions", "energy", "forces"):
        np.testing.assert_allclose(getattr(stated.train, field), getattr(good.train, field), rtol=2e-8, atol=1e-8)
    assert any("position bohr, energy hartree, force hartree/bohr" in remark for remark in stated.remarks)
    assert any("nothing states, assumed: position A, energy eV, force eV/A" in remark for remark in good.remarks)
    same = read(CASES / "et_bohr_all.npz", positions_unit="bohr", energy_unit="hartree", forces_unit="hartree/bohr")
    assert same.digest() == stated.digest()
    for key, wrong, right in (("positions_unit", "A", "bohr"), ("energy_unit", "eV", "hartree")):
        with pytest.raises(DataError, match=rf"data.{key}: got {wrong}, but .*et_bohr_all.npz states {right}"):
            read(CASES / "et_bohr_all.npz", **{key: wrong})


def test_units_of_forces_go_with_those_of_energies_and_positions(tmp_path):
    good = dict(np.load(CASES / "et_good.npz"))
    np.savez(tmp_path / "a.npz", **good | {"E": good["E"] / HARTREE, "F": good["F"] / HARTREE})
    said = read(tmp_path / "a.npz", energy_unit="hartree", forces_unit="hartree/A").train
    np.testing.assert_allclose(said.forces, good["F"], rtol=1e-9)
    # sGDML files name energies and lengths only; names may be bytes.
    kcal = good | {"E": good["E"] / KCAL_MOL, "F": good["F"] / KCAL_MOL, "e_unit": b"kcal/mol", "r_unit": "Ang"}
    np.savez(tmp_path / "b.npz", **kcal)
    found = read(tmp_path / "b.npz")
    np.testing.assert_allclose(found.train.forces, good["F"], rtol=1e-9)
    assert found.units["train"].forces == "kcal/mol/A"
    np.savez(tmp_path / "c.npz", **kcal | {"f_unit": "eV/Ang", "F": good["F"]})
    np.testing.assert_allclose(read(tmp_path / "c.npz").train.forces, good["F"], rtol=1e-9)
    np.savez(tmp_path / "d.npz", **kcal | {"e_unit": "cal"})
    with pytest.raises(DataError, match=r"states 'cal' as the unit of energy; allowed: data.energy_unit"):
        read(tmp_path / "d.npz")
    assert read(tmp_path / "d.npz", energy_unit="kcal/mol", forces_unit="kcal/mol/A").train.size == 50


@pytest.mark.parametrize(
    ("kind", "text", "name"),
    [
        ("position", "Angstrom", "A"), ("position", "a.u.", "bohr"), ("position", "nm", "nm"),
        ("position", "mile", None),
        ("energy", "Ha", "hartree"), ("energy", "kcal mol^-1", "kcal/mol"), ("energy", "kJ/mol", "kJ/mol"),
        ("energy", "Rydberg", "Ry"), ("force", "Hartree/Bohr", "hartree/bohr"),
        ("force", "kcal/(mol*Ang)", "kcal/mol/A"),
        ("force", "kcal/mol/Angstrom", "kcal/mol/A"), ("force", "eV Å^-1", "eV/A"), ("force", "kJ/mol/nm", "kJ/mol/nm"),
        ("force", "au", "hartree/bohr"), ("force", "N", None),
        ("stress", "GPa", "GPa"), ("stress", "eV/Ang^3", "eV/A^3"),
    ],
)  # fmt: skip
def test_names_of_units(kind, text, name):
    assert parse(kind, text) == name


def test_units_that_can_be_said():
    assert FORCE_UNITS["hartree/A"] == HARTREE and FORCE_UNITS["Ry/bohr"] == 0.5 * HARTREE / BOHR
    assert FORCE_UNITS["kJ/mol/nm"] == pytest.approx(KCAL_MOL / 41.84)
    with pytest.raises(ConfigError, match=r"data\.positions_unit"):
        config.parse({"data": {"train": "a.npz", "positions_unit": "pm"}})


def test_frames_may_state_their_units_and_cells_are_converted(tmp_path):
    made = moved(3)
    for atoms in made:
        atoms.info |= {"length_unit": "bohr", "energy_units": "Ha"}
        atoms.set_cell(np.eye(3) * 20.0)
        atoms.pbc = True
        atoms.positions /= BOHR
    ase.io.write(tmp_path / "a.xyz", made, format="extxyz")
    found = read(tmp_path / "a.xyz").train
    np.testing.assert_allclose(found.positions, [atoms.positions * BOHR for atoms in made], atol=1e-8)
    np.testing.assert_allclose(found.cells, [np.eye(3) * 20.0 * BOHR] * 3)
    np.testing.assert_allclose(found.energy, [atoms.calc.results["energy"] * HARTREE for atoms in made], rtol=1e-7)
    np.testing.assert_allclose(found.forces[0], made[0].calc.results["forces"] * HARTREE / BOHR, atol=1e-5)
    del made[1].info["energy_units"]
    ase.io.write(tmp_path / "a.xyz", made, format="extxyz")
    with pytest.raises(DataError, match="frame 1 states units"):
        read(tmp_path / "a.xyz")


def test_compressed_and_binary_files_are_read(tmp_path):
    made = moved(4)
    ase.io.write(tmp_path / "plain.extxyz", made, format="extxyz")
    text = (tmp_path / "plain.extxyz").read_bytes()
    for name, pack in (("a.xyz.gz", gzip.compress), ("a.extxyz.bz2", bz2.compress), ("a.xyz.xz", lzma.compress)):
        (tmp_path / name).write_bytes(pack(text))
    for name in ("a.traj", "a.db", "a.json"):
        ase.io.write(tmp_path / name, made)
    (tmp_path / "b.traj.gz").write_bytes(gzip.compress((tmp_path / "a.traj").read_bytes()))
    for path in sorted(tmp_path.iterdir()):
        found = read(path)
        np.testing.assert_allclose(found.train.energy, [atoms.get_potential_energy() for atoms in made], rtol=1e-8)
        np.testing.assert_allclose(found.train.forces, [atoms.get_forces() for atoms in made], atol=1e-7)
        assert "data.train: labels are energy, forces of the file" in found.remarks, path
    (tmp_path / "cut.xyz.gz").write_bytes((tmp_path / "a.xyz.gz").read_bytes()[:-40])
    with pytest.raises(DataError, match=r"cut.xyz.gz: not a readable .gz file"):
        read(tmp_path / "cut.xyz.gz")
    (tmp_path / "torn.xyz.gz").write_bytes(gzip.compress(text[: int(0.4 * len(text))]))
    with pytest.raises(DataError, match=r"torn.xyz.gz: frame"):
        read(tmp_path / "torn.xyz.gz")
    for name in ("a.foo", "a.npz.gz"):
        with pytest.raises(ConfigError, match=r"suffix .npz, or .xyz"):
            read(tmp_path / name)
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "none.db")


def test_one_origin_of_labels_and_the_energy_of_the_forces(tmp_path):
    made = moved(2)
    for atoms in made:
        atoms.calc.results["free_energy"] = atoms.calc.results["energy"] - 1.0
    ase.io.write(tmp_path / "a.traj", made)
    np.testing.assert_allclose(read(tmp_path / "a.traj").train.energy, [a.calc.results["free_energy"] for a in made])
    said = read_labelled(tmp_path / "a.traj", LabelKeys(energy="energy"))
    assert [label.energy for _, label in said.frames] == [a.calc.results["energy"] for a in made]
    made[0].info["REF_energy"] = 5.0  # another level of theory: its forces are missing
    ase.io.write(tmp_path / "a.xyz", made, format="extxyz")
    with pytest.raises(DataError, match=r"frame 0 lacks REF_forces; present: .*forces"):
        read(tmp_path / "a.xyz")


def test_zeros_of_held_atoms_are_masked_everywhere():
    sets = read(CASES / "et_frozen.xyz.gz")
    used = sets.train
    assert used.without_forces[:, :3].all() and not used.without_forces[:, 3:].any()
    assert any("450 force components in 50 frames of held atoms" in remark for remark in sets.remarks)
    assert used.force_rms == pytest.approx(np.sqrt(np.mean(used.forces[:, 3:] ** 2)))
    graphs = frames.graphs({"train": used.take(np.arange(2))}, (1, 6, 8), 2.0, dtype=np.float64)["train"]
    parsed = config.parse({"data": {"train": "-"}})
    labels = sampling.fill(parsed, used.take(np.arange(2)), graphs, np.zeros(2))
    random = np.random.default_rng(0)
    shape, index = (2, 9, 3), jnp.arange(2)
    sigma = jnp.asarray(random.uniform(0.5, 2.0, (2, 9)))
    energy = jnp.asarray(used.energy[:2])
    forces = random.normal(size=shape)
    wild = np.where(used.without_forces[:2], 1e6, forces)
    found = [
        log_likelihood(Likelihood(1.0), Prediction(energy, jnp.asarray(f), None, sigma), labels_of(labels, index)[1])
        for f in (forces, wild)
    ]
    np.testing.assert_array_equal(found[0], found[1])
    free = (forces - used.forces[:2])[:, 3:], np.asarray(sigma)[:, 3:, None]
    by_hand = np.sum(-0.5 * (free[0] / free[1]) ** 2 - np.log(free[1]) - 0.5 * np.log(2 * np.pi), axis=(1, 2))
    np.testing.assert_allclose(found[0], by_hand - 0.5 * np.log(2 * np.pi), rtol=1e-6)
    predicted = Prediction(np.zeros((1, 50)), np.where(used.without_forces, 1e6, used.forces)[None], None, None)
    assert evaluate.force_rmse(predicted, used).tolist() == [0.0]


def test_true_forces_of_held_atoms_are_used_and_unmarked_zeros_are_not(tmp_path):
    made = moved(4)
    for atoms in made:
        atoms.set_constraint(FixAtoms([0, 1]))
        atoms.calc.results["forces"][1] = 0.0
    made[3].calc.results["forces"][1] = 0.1
    ase.io.write(tmp_path / "a.traj", made)
    found = read(tmp_path / "a.traj")
    assert found.train.without_forces[:3, 1].all() and np.count_nonzero(found.train.without_forces) == 9
    np.testing.assert_allclose(found.train.forces[:, 0], [atoms.calc.results["forces"][0] for atoms in made])
    assert any("5 forces of held atoms are not zero" in remark for remark in found.remarks)
    made[3].calc.results["forces"][1] = 0.0
    for atoms in made:
        atoms.set_constraint(FixCartesian([1], (False, False, True)))
    ase.io.write(tmp_path / "b.traj", made)
    assert read(tmp_path / "b.traj").train.without_forces[:, 1].all()  # all of it is zero, though one part is held
    for atoms in made:
        atoms.set_constraint()
        atoms.calc.results["forces"][1, 0] = 1.0
        atoms.calc.results["forces"][2] = 0.0
    made[3].calc.results["forces"][1, 0] = 0.0  # zero by chance, in one frame
    ase.io.write(tmp_path / "c.traj", made)
    found = read(tmp_path / "c.traj")
    assert found.train.without_forces.any(axis=(0, 2)).tolist() == [False, False, True] + [False] * 6
    assert any("atoms 2 are exactly zero in every frame" in remark for remark in found.remarks)
    for atoms in made:
        atoms.calc.results["forces"][:] = 0.0
    ase.io.write(tmp_path / "d.traj", made)
    assert read(tmp_path / "d.traj").train.without_forces is None  # a minimum, as it may be


def test_two_charges_are_two_surfaces(tmp_path):
    named = r"data.train, frame 0 states 0, data.train, frame 20 states 1: frames of another charge"
    with pytest.raises(DataError, match=named):
        read(CASES / "two_charges.xyz")
    assert read(CASES / "two_charges.xyz", electronic_states="allow").train.size == 40
    frames_of = ase.io.read(CASES / "two_charges.xyz", ":")
    ase.io.write(tmp_path / "train.xyz", frames_of[:20], format="extxyz")
    ase.io.write(tmp_path / "test.xyz", frames_of[20:], format="extxyz")
    with pytest.raises(DataError, match=r"data.test, frame 0 states 1"):
        read(tmp_path / "train.xyz", test=str(tmp_path / "test.xyz"))
    assert read(tmp_path / "test.xyz").state == {"charge": 1.0}
    assert read(tmp_path / "train.xyz").state == {"charge": 0.0}


@pytest.mark.parametrize(
    ("stated", "refused"),
    [
        ([{"charge": 1}, {}], "states none"),
        ([{}, {"total_charge": -1}], "states -1"),
        ([{"charge": 0}, {}], None),
        ([{"charge": 1, "spin": 1}] * 2, None),
        ([{"multiplicity": 3}, {"multiplicity": 1}], "another spin"),
        ([{"multiplicity": 3}, {}], "another spin"),
        ([{"multiplicity": 1}, {}], None),
        ([{"spin": 2}, {"spin": 0}], "another spin"),
    ],
)
def test_charges_and_spins_of_frames(tmp_path, stated, refused):
    made = moved(2, "NH3")
    for atoms, info in zip(made, stated, strict=True):
        atoms.info |= info
    ase.io.write(tmp_path / "a.xyz", made, format="extxyz")
    if refused is None:
        assert read(tmp_path / "a.xyz").state == {k: float(v) for k, v in stated[0].items()}
    else:
        with pytest.raises(DataError, match=refused):
            read(tmp_path / "a.xyz")


def test_charges_of_an_npz_file(tmp_path):
    good = dict(np.load(CASES / "et_good.npz"))
    np.savez(tmp_path / "a.npz", **good, Q=np.repeat([0.0, 1.0], 25))
    with pytest.raises(DataError, match=r"frame 25 states 1"):
        read(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", **good, charge=-1)
    assert read(tmp_path / "a.npz").state == {"charge": -1.0}
