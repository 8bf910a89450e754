"""Energies and forces that do not belong to the same frames, or are no labels at all, are refused."""

import numpy as np
import pytest
from ase.build import bulk

from bayes_mlff.core.errors import DataError
from bayes_mlff.data.label_units import Units
from bayes_mlff.data.labelled_frames import Frames
from bayes_mlff.finetune import doubts, remarks
from bayes_mlff.finetune.labelled import DataSets
from bayes_mlff.finetune.work import Ratio, Untested
from bayes_mlff.models.energetics import Prediction
from tests.support.places import CASES

USUAL = Units("A", "eV", "eV/A", "eV/A^3", "tension")


def ethanol(count=50):
    good = np.load(CASES / "et_good.npz")
    atoms = np.tile(good["z"], (count, 1)), np.zeros((count, 3), bool)
    return Frames(*atoms, good["R"][:count], np.zeros((count, 3, 3)), good["E"][:count], good["F"][:count], None)


def joined(one, two):
    return Frames(*(None if a is None else np.concatenate([a, b]) for a, b in zip(one, two, strict=True)))


def predicted(used, size=0.8, noise=0.1):
    """What a model that is too soft and errs at random says of right labels."""
    random = np.random.default_rng(7)
    energy = size * used.energy + noise * 0.02 * random.normal(size=used.size)
    forces = size * used.forces + noise * used.force_rms * random.normal(size=used.forces.shape)
    return Prediction(energy[None], forces[None], None, None)


def check(used, wrong, **options):
    return doubts.check_set(predicted(used), wrong, USUAL, "train", **options)


def some(values, every, changed):
    out = values.copy()
    out[::every] = changed(out[::every])
    return out


@pytest.mark.parametrize(
    "change",
    [
        lambda e, f: (np.random.default_rng(0).permutation(e), f),
        lambda e, f: (np.roll(e, 1), f),
        lambda e, f: (some(e, 5, np.zeros_like), f),
        lambda e, f: (np.where(np.arange(len(e)) == 17, e + 30.0, e), f),
        lambda e, f: (some(e, 2, lambda x: x + 13.6), f),
        lambda e, f: (some(e, 5, lambda x: x / 9.0), f),
        lambda e, f: (e, np.roll(f, 1, axis=0)),
        lambda e, f: (e, np.random.default_rng(0).permutation(f)),
        lambda e, f: (e, np.broadcast_to(f[:1], f.shape)),
        lambda e, f: (e, f[:, ::-1]),
        lambda e, f: (e, some(f, 2, np.negative)),
    ],
)
def test_labels_of_other_frames_or_of_several_origins_are_refused(change):
    used = ethanol()
    energy, forces = change(used.energy, used.forces)
    wrong = used._replace(energy=energy, forces=forces)
    with pytest.raises(DataError, match="energies and forces of nearby frames are inconsistent"):
        check(used, wrong, by_model=False)


def test_forces_of_zero_and_energies_that_never_change_are_refused():
    used = ethanol(12)
    with pytest.raises(DataError, match=r"forces of 12 of 12 frames are all exactly zero"):
        check(used, used._replace(forces=np.zeros_like(used.forces)))
    with pytest.raises(DataError, match=r"forces of 3 of 12 frames are all exactly zero \(first frame 0 "):
        check(used, used._replace(forces=some(used.forces, 5, np.zeros_like)))
    for value in (0.0, -4209.5):
        with pytest.raises(DataError, match=f"energies of all 12 frames with the atoms of frame 0 .*{value:g} eV"):
            check(used, used._replace(energy=np.full(12, value)))
    few = used.take(np.arange(4))
    with pytest.raises(DataError, match="exactly zero"):
        check(few, few._replace(forces=np.zeros_like(few.forces)))
    assert isinstance(check(used, used)["train"], Ratio)


def test_crystals_without_forces_and_turned_copies_are_accepted():
    made = [bulk("Cu", cubic=True) * 1 for _ in range(10)]
    for index, atoms in enumerate(made):
        atoms.set_cell(atoms.cell.array * (0.97 + 0.006 * index), scale_atoms=True)
    rows = [(a.numbers, a.pbc, a.positions, a.cell.array) for a in made]
    numbers, pbc, positions, cells = map(np.array, zip(*rows, strict=True))
    energy = (np.arange(10) - 4.0) ** 2 * 0.01
    used = Frames(numbers, pbc, positions, cells, energy, np.zeros(positions.shape), None)
    model = Prediction(0.8 * energy[None], 1e-7 * np.ones((1, *positions.shape)), None, None)
    assert isinstance(doubts.check_set(model, used, USUAL, "train")["train"], Untested)
    copies = ethanol(1).take(np.zeros(6, int))
    turned = copies._replace(positions=copies.positions @ np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0])
    model = Prediction(copies.energy[None], copies.forces[None], None, None)
    assert set(doubts.check_set(model, turned, USUAL, "train")) == {"train"}


@pytest.mark.parametrize(
    ("energy", "forces", "said"),
    [(1 / 9, 1.0, "energies per atom"), (1.0, -1.0, "gradients"), (1 / 27.2, 1.0, "energies in hartree")],
)
def test_each_composition_is_checked_by_itself(energy, forces, said):
    one = ethanol(20)
    two = one._replace(numbers=np.where(one.numbers == 8, 16, one.numbers))
    wrong = two._replace(energy=energy * two.energy, forces=forces * two.forces)
    right, mixed = joined(one, two), joined(one, wrong)
    assert set(check(right, right)) == {"train", "train, 20 frames of C2H6O", "train, 20 frames of C2H6S"}
    with pytest.raises(DataError, match=rf"data.train, 20 frames of C2H6S: .*{said}"):
        check(right, mixed)


def test_gradients_are_not_doubted_where_energies_confirm_forces():
    used = ethanol(16)
    model = predicted(used)._replace(forces=-used.forces[None])  # near a minimum a model may have its own one
    work = Ratio(1.0, 0.9, 1.1, 40)
    doubts.check_units(model, used, USUAL, "train", work)
    with pytest.raises(DataError, match="look like -eV/A"):
        doubts.check_units(model, used, USUAL, "train", Ratio(-1.0, -1.1, -0.9, 40))
    small = used._replace(forces=0.2 * used.forces)
    doubts.check_units(model._replace(forces=-0.2 * used.forces[None]), small, USUAL, "train", Untested("", 0.0, 0.0))
    with pytest.raises(DataError, match="look like -eV/A"):
        doubts.check_units(model, used, USUAL, "train")


def test_what_was_not_tested_and_what_is_doubtful_is_said():
    one, many = ethanol(1), 18
    apart = joined(one, one).take(np.zeros(many, int))
    apart = apart._replace(numbers=np.where(apart.numbers == 8, np.arange(many)[:, None] + 10, apart.numbers))
    said = remarks.of_labels(DataSets(apart, None, None), check(apart, apart, by_model=False))
    assert any("could not be tested, because no two frames have the same atoms" in text for text in said)
    few = ethanol(5)
    said = remarks.of_labels(DataSets(few, None, None), check(few, few))
    assert any("because there are fewer than 8 frames; nor were units" in text for text in said)
    sets = DataSets(ethanol(), None, None)
    for ratio, warned in ((Ratio(1.0, 0.97, 1.02, 40), False), (Ratio(0.85, 0.8, 0.9, 40), True)):
        said = remarks.of_labels(sets, {"train": ratio, "train, 20 frames of C2H6O": ratio})
        assert sum(text.startswith("warning: data.train") for text in said) == 2 * warned
    wide = remarks.of_labels(sets, {"train": Ratio(0.8, 0.5, 1.1, 40)})
    assert any(text.startswith("warning") for text in wide)


def test_unit_and_sign_of_stress_are_said():
    used = ethanol(5)._replace(stress=np.zeros((5, 3, 3)))
    sets = DataSets(used, None, None, {"train": USUAL})
    assert "data.train: stress taken as eV/A^3, positive in tension (data.stress_sign)" in remarks.of_labels(sets, {})
