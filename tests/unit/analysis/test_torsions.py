"""Dihedrals: known geometries, and planted conformers whose vibrations are no transitions."""

import numpy as np
import pytest
from ase.build import molecule

from bayes_mlff.analysis import torsions
from bayes_mlff.data.structure import from_ase


def ethanol(dihedral: float):
    """Ethanol with a given C-C-O-H dihedral."""
    atoms = molecule("CH3CH2OH")
    far, near, oxygen, hydrogen = torsions.hydroxyl(from_ase(atoms))
    atoms.set_dihedral(far, near, oxygen, hydrogen, dihedral, indices=[hydrogen])
    return atoms


@pytest.mark.parametrize("dihedral", [-170.0, -60.0, 0.0, 60.0, 180.0])
@pytest.mark.parametrize("periodic", [False, True])
def test_conformation_of_known_geometries(dihedral, periodic):
    atoms = ethanol(dihedral)
    if periodic:  # broken over the boundary of its box
        atoms.set_cell([12.0, 13.0, 14.0])
        atoms.pbc = True
        atoms.positions -= atoms.positions[2]
        atoms.wrap()
    structure = from_ase(atoms)
    bonds = torsions.hydroxyl(structure)
    assert atoms.get_chemical_symbols()[bonds[2]] == "O"
    found = torsions.chain_angles(structure.positions[None], structure.cell[None], structure.pbc, bonds)
    angle, got = found[0][0], found[1][0]
    assert abs((got - dihedral + 180) % 360 - 180) < 1e-6
    assert (angle < 30) == (abs(dihedral) > 150)
    if not periodic:
        far, near, oxygen, hydrogen = atoms.positions[list(bonds)]
        cosine = np.dot(near - far, hydrogen - oxygen)
        cosine /= np.linalg.norm(near - far) * np.linalg.norm(hydrogen - oxygen)
        assert angle == pytest.approx(np.degrees(np.arccos(cosine)), rel=1e-9)


def test_broken_molecule_has_no_conformation():
    atoms = ethanol(60.0)
    far, near, _, _ = torsions.hydroxyl(from_ase(atoms))
    atoms.set_distance(far, near, 2.2, fix=1)
    assert torsions.hydroxyl(from_ase(atoms)) is None


def test_planted_flips_are_found_and_vibrations_are_none():
    rng = np.random.default_rng(2)
    plan = [(180.0, 300), (60.0, 200), (-60.0, 250), (180.0, 100)]  # gauche+ to gauche- passes 0°, not 180°
    angle = np.concatenate([np.full(frames, centre) for centre, frames in plan]) + 8.0 * rng.normal(size=850)
    for at in (50, 120, 640):  # excursions across the eclipsed angle that come back: 125° from 180°, -115° from -60°
        angle[at : at + 5] = 118.0 if at < 300 else -125.0
    angle = (angle + 180.0) % 360.0 - 180.0
    found = torsions.torsion(angle)
    got = [
        (torsions.CONFORMERS[a], torsions.CONFORMERS[b])
        for a, b in zip(found.changes.before, found.changes.after, strict=True)
    ]
    assert got == [("anti", "gauche+"), ("gauche+", "gauche-"), ("gauche-", "anti")]
    assert found.changes.crossed.tolist() == [300, 500, 750]
    shares = [np.mean(found.conformer == i) for i in range(3)]
    assert np.allclose(shares, [400 / 850, 200 / 850, 250 / 850], atol=0.005)  # a core may be entered some frames late
    nearest = np.argmin(np.abs((angle[:, None] - [180.0, 60.0, -60.0] + 180.0) % 360.0 - 180.0), axis=1)
    assert np.count_nonzero(np.diff(nearest)) == 9  # without hysteresis there would be six more


def test_a_slow_transition_lasts_from_core_to_core():
    angle = np.concatenate([np.full(20, 60.0), np.linspace(61.0, 181.0, 13), np.full(20, 180.0)])
    changes = torsions.torsion(angle, core_deg=20.0).changes
    assert (changes.left.tolist(), changes.crossed.tolist(), changes.entered.tolist()) == ([22], [26], [30])


def test_before_the_first_core_nothing_is_known():
    found = torsions.torsion(np.array([120.0, 118.0, 121.0, 175.0, 60.0]))
    assert found.conformer.tolist() == [-1, -1, -1, 0, 1]
    assert found.changes.crossed.tolist() == [4]
