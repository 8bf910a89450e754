"""Labels that contradict bond lengths or each other are refused, and good ones never are."""

import ase.io
import numpy as np
import pytest
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT

from bayes_mlff.core.errors import DataError
from bayes_mlff.core.units import BOHR, HARTREE
from bayes_mlff.data import frame_checks
from bayes_mlff.data.label_units import Units
from bayes_mlff.data.labelled_frames import Frames
from bayes_mlff.finetune import config, doubts, frames, net_forces, run
from bayes_mlff.finetune.work import Untested, work_ratio
from bayes_mlff.models.energetics import Prediction
from tests.support.places import CASES

FEW = "fewer than 8 pairs of frames have the same atoms, and known forces and stress"
USUAL = Units("A", "eV", "eV/A", "eV/A^3", "tension")


def ethanol(count=50):
    good = np.load(CASES / "et_good.npz")
    atoms = np.tile(good["z"], (count, 1)), np.zeros((count, 3), bool)
    return Frames(*atoms, good["R"][:count], np.zeros((count, 3, 3)), good["E"][:count], good["F"][:count], None)


def model_like(used, size=0.8, noise=0.1):
    """A model that is too soft and errs at random, as a pretrained one may."""
    random = np.random.default_rng(7)
    energy = size * used.energy + noise * 0.02 * random.normal(size=used.size)
    forces = size * used.forces + noise * used.force_rms * random.normal(size=used.forces.shape)
    return Prediction(energy[None], forces[None], None if used.stress is None else size * used.stress[None], None)


@pytest.mark.parametrize("count", [10, 50])
def test_energies_and_forces_that_belong_together_have_the_ratio_one(count):
    used = ethanol(count)
    found = doubts.check_work(model_like(used), used, USUAL, "train")
    assert found.lower < 1.0 < found.upper and found.value == pytest.approx(1.0, abs=0.15)
    nothing = Prediction(np.zeros((1, count)), np.zeros((1, count, 9, 3)), None, None)
    doubts.check_work(nothing, used, USUAL, "train")  # a model that knows nothing raises no doubt
    assert "no energies" in doubts.check_work(model_like(used), used._replace(energy=None), USUAL, "train").reason
    few = used.take(np.arange(7))
    found = doubts.check_work(model_like(few), few._replace(energy=-few.energy), USUAL, "train")
    assert found.reason == "there are fewer than 8 frames"


@pytest.mark.parametrize(
    ("energy", "forces", "units", "said"),
    [
        (1.0, 1.0 / BOHR, ("hartree", "hartree/bohr"), "0.5.* as forces in hartree/A"),
        (1.0 / 9.0, 1.0, ("eV", "eV/A"), "0.11.* as energies per atom"),
        (1.0, -1.0, ("eV", "eV/A"), r"-\d.* as gradients in place of forces"),
        (0.5, 1.0, ("hartree", "hartree/bohr"), "0.5.* energies in Ry|forces in"),
        (4.184, 1.0, ("kJ/mol", "kJ/mol/A"), "4.* as forces in kcal/mol/A would be"),
    ],
)
def test_wrong_ratios_are_refused_with_what_explains_them(energy, forces, units, said):
    used = ethanol()
    wrong = used._replace(energy=energy * used.energy, forces=forces * used.forces)
    stated = USUAL._replace(energy=units[0], forces=units[1])
    for count in (10, 50):
        some = np.arange(count)
        with pytest.raises(DataError, match=said if count == 50 else "times the work of the forces"):
            doubts.check_work(model_like(used.take(some)), wrong.take(some), stated, "train")


def test_compositions_are_compared_within_and_unlike_frames_say_nothing():
    one = ethanol(12)
    two = one._replace(numbers=np.where(one.numbers == 8, 16, one.numbers), energy=one.energy - 5000.0)
    joined = Frames(*(None if a is None else np.concatenate([a, b]) for a, b in zip(one, two, strict=True)))
    assert doubts.check_work(model_like(joined), joined, USUAL, "train").value == pytest.approx(1.0, abs=0.2)
    random = np.random.default_rng(0)
    for _ in range(20):
        labels = {"energy": random.normal(size=24), "forces": random.normal(size=joined.forces.shape)}
        noise = joined._replace(**labels)
        found = doubts.check_work(model_like(noise), noise, USUAL, "train")
        assert isinstance(found, Untested) or not doubts._clearly_off(found)


def aluminium(strain, held=False):
    """Frames of a crystal with labels from EMT, of one cell or of many, or of a slab that is held."""
    random, made = np.random.default_rng(1), []
    for _ in range(20):
        atoms = fcc111("Al", (2, 2, 3), vacuum=6.0) if held else bulk("Al", cubic=True)
        if not held:
            atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain * random.normal(size=(3, 3))), scale_atoms=True)
        shift = 0.05 * random.normal(size=atoms.positions.shape)
        atoms.positions += np.where(atoms.get_tags()[:, None] == 3, 0.0, shift) if held else shift
        atoms.calc = EMT()
        made.append((atoms.positions.copy(), atoms.get_potential_energy(), atoms.get_forces(), atoms.cell.array.copy()))
        made[-1] += (atoms.get_stress(voigt=False) if not held else np.zeros((3, 3)),)
    positions, energy, forces, cells, stress = map(np.array, zip(*made, strict=True))
    positions[3] += cells[3, 0]  # the same atom in another cell
    atoms = np.tile(atoms.numbers, (20, 1)), np.tile(atoms.pbc, (20, 1))
    return Frames(*atoms, positions, cells, energy, forces, None if held else stress)


def test_cells_that_change_do_work_and_held_atoms_none():
    used = aluminium(0.02)
    found = doubts.check_work(model_like(used), used, USUAL, "train")
    assert found.value == pytest.approx(1.0, abs=0.05)
    nothing = Prediction(np.zeros((1, 20)), np.zeros((1, 20, 4, 3)), np.zeros((1, 20, 3, 3)), None)
    assert work_ratio(used, nothing).value == pytest.approx(1.0, abs=0.1)
    with pytest.raises(DataError, match="times the work"):
        doubts.check_work(model_like(used), used._replace(energy=4.0 * used.energy), USUAL, "train")
    assert work_ratio(used._replace(stress=None), model_like(used._replace(stress=None))).reason == FEW
    fixed = aluminium(0.0)._replace(stress=None)
    assert work_ratio(fixed, model_like(fixed)).value == pytest.approx(1.0, abs=0.05)
    slab = aluminium(0.0, held=True)
    bottom = np.ptp(slab.positions, axis=0).max(axis=1) < 1e-9
    assert bottom.sum() == 0  # one frame was moved by a cell vector
    still = np.ptp(np.delete(slab.positions, 3, axis=0), axis=0).max(axis=1) < 1e-9
    zeroed = np.zeros(slab.forces.shape, bool)
    zeroed[:, still] = True
    masked = slab._replace(forces=np.where(zeroed, 0.0, slab.forces), without_forces=zeroed)
    assert still.sum() == 4 and work_ratio(masked, model_like(masked)).value == pytest.approx(1.0, abs=0.05)
    # The forces of atoms that do move are needed.
    hidden = np.zeros(slab.forces.shape, bool)
    hidden[:, ~still] = True
    assert work_ratio(slab._replace(without_forces=hidden), model_like(slab)).reason == FEW


def bonds(made, unit="A", factor=1.0):
    rows = [(a.numbers, a.pbc, a.positions * factor, a.cell.array * factor) for a in made]
    numbers, pbc, positions, cells = map(np.array, zip(*rows, strict=True))
    used = Frames(numbers, pbc, positions, cells, None, np.zeros(positions.shape), None)
    frame_checks.bond_lengths(used, USUAL._replace(positions=unit), "data.train")


def test_units_of_positions_by_bond_lengths():
    many = [molecule("CH3CH2OH"), molecule("H2"), molecule("O2"), bulk("Cu"), bulk("NaCl", "rocksalt", a=5.64)]
    many += [bulk("Cs", "bcc", a=6.14), bulk("Si"), fcc111("Al", (1, 1, 3), vacuum=8.0), bulk("Hg", "sc", a=3.0)]
    for atoms in many:
        bonds([atoms])
        if len(atoms) > 2 or atoms.pbc.any():
            with pytest.raises(DataError, match=r"in bohr they would be .*positions_unit: got A"):
                bonds([atoms], factor=1.0 / BOHR)
            with pytest.raises(DataError, match=r"in nm they would be"):
                bonds([atoms], factor=0.1)
            with pytest.raises(DataError, match=r"in A they would be .*positions_unit: got bohr"):
                bonds([atoms], "bohr", BOHR)
    bonds([bulk("Ar", a=5.26)])  # no bonds at all
    bonds([ase.Atoms("Ar2", [[0, 0, 0], [3.8, 0, 0]])])
    bonds([ase.Atoms("N2", [[0, 0, 0], [d, 0, 0]]) for d in np.linspace(1.0, 3.5, 12)])  # pulled apart
    bonds([ase.Atoms("H")])


def test_frames_in_another_unit_are_found_among_others_and_stretched_bonds_are_none():
    good = [molecule("CH3CH2OH") for _ in range(20)]
    wrong = [ase.Atoms(a.numbers, a.positions / BOHR) for a in good]
    for mixed in (good[:10] + wrong[:10], good[:18] + wrong[:2], good[:5] + wrong[:1]):
        first = next(i for i, a in enumerate(mixed) if a in wrong)
        with pytest.raises(DataError, match=rf"frame {first}, and {len(mixed) - first} of .* in bohr they would be"):
            bonds(mixed)
    bonds(good[:19] + wrong[:1])  # one strange frame of many
    water = [molecule("H2O") for _ in range(20)]
    bonds([ase.Atoms(a.numbers, a.positions * s) for a, s in zip(water, np.linspace(0.9, 2.2, 20), strict=True)])


def test_large_forces_can_be_allowed():
    used = ethanol(4)._replace(forces=20.0 * ethanol(4).forces)
    with pytest.raises(DataError, match=r"RMS force component .* or data.doubtful_units: allow"):
        frame_checks.plausible(used, "data.train")
    frame_checks.plausible(used, "data.train", large_forces=True)


def test_few_frames_are_checked_with_others_of_their_file():
    stated = {"train": str(CASES / "et_good.npz"), "frames": 5}
    sets = frames.read(config.parse({"data": stated}))
    joined = run._with_spare(sets)
    assert (sets.train.size, sets.spare.size, joined.size) == (5, 45, 50)
    np.testing.assert_array_equal(joined.energy, ethanol().energy)
    assert run._with_spare(frames.read(config.parse({"data": stated | {"frames": 8}}))) is None


def test_positions_in_bohr_are_refused_before_anything_else(tmp_path):
    bohr = dict(np.load(CASES / "et_bohr_all.npz"))
    np.savez(tmp_path / "silent.npz", **{key: bohr[key] for key in "zREF"})
    stated = {"train": str(tmp_path / "silent.npz"), "energy_unit": "hartree", "forces_unit": "hartree/bohr"}
    with pytest.raises(DataError, match=r"data.train: nearest neighbours are 1.9 times .* in bohr they would be 1.01"):
        frames.read(config.parse({"data": stated}))
    assert frames.read(config.parse({"data": stated | {"positions_unit": "bohr"}})).train.size == 50
    assert frames.read(config.parse({"data": stated | {"doubtful_units": "allow"}})).train.size == 50
    assert bohr["E"][0] * HARTREE == pytest.approx(ethanol().energy[0])


def test_net_force_and_torque():
    used = ethanol()
    found = net_forces.net(used)
    assert found["force_relative"] < 1e-6 and found["torque_relative"] < 1e-3
    assert len(net_forces.sentences(found, "data.train")) == 1
    pushed = used._replace(forces=used.forces + np.array([0.3, 0.0, 0.0]))
    pulled = net_forces.net(pushed)
    assert pulled["force_ev_a"] == pytest.approx(2.7, rel=1e-6)
    size = np.sqrt(np.mean(np.sum(pushed.forces**2, axis=(1, 2))))
    assert pulled["force_relative"] == pytest.approx(2.7 / size, rel=1e-6)
    assert "warning: data.train" in net_forces.sentences(pulled, "data.train")[1]
    turned = used._replace(
        forces=used.forces + np.cross([0.0, 0.0, 1.0], used.positions - used.positions.mean(axis=1, keepdims=True))
    )
    assert net_forces.net(turned)["torque_relative"] > net_forces.LARGE > net_forces.net(turned)["force_relative"]
    crystal = used._replace(pbc=np.ones((50, 3), bool))
    assert set(net_forces.net(crystal)) == {"force_ev_a", "force_relative"}
    unknown = np.zeros(used.forces.shape, bool)
    unknown[:, 0] = True
    assert net_forces.net(used._replace(without_forces=unknown)) == {}
