"""Vacuum is found whatever way it lies, and crystals with wide gaps between their layers are taken for crystals."""

import ase
import numpy as np
import pytest
from ase.build import bulk, fcc111, graphene, molecule, mx2, nanotube
from ase.spacegroup import crystal

from bayes_mlff.core.errors import ConfigError
from bayes_mlff.data.structure import from_ase
from bayes_mlff.md.vacuum import gaps, held_together, refuse_vacuum

ALL = ("a", "b", "c")


def slab(vacuum=6.0, **settings):
    atoms = fcc111("Cu", (2, 2, 3), vacuum=vacuum, **settings)
    atoms.pbc = True
    return atoms


def permuted(atoms, order):
    """The same with its cell vectors in another order."""
    return ase.Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell.array[order], pbc=True)


def split():
    """Half of the slab at the bottom of the cell, half at its top."""
    atoms = slab()
    atoms.positions[:, 2] -= atoms.positions[:, 2].mean()
    atoms.wrap()
    return atoms


def diagonal():
    """A slab whose plane holds only one cell vector; along all three there are atoms everywhere."""
    atoms = slab(orthogonal=True, vacuum=4.0)
    a, b, c = atoms.cell.array
    return ase.Atoms(atoms.numbers, positions=atoms.positions, cell=[a, b + c, c], pbc=True)


def stepped():
    """Layers in a zigzag, so that no slice is empty, though 8 Å are between them."""
    atoms = bulk("Al", "fcc", a=4.05, cubic=True).repeat((8, 2, 1))
    atoms.positions[:, 2] += np.abs(atoms.positions[:, 0] - 16.2) * 0.8
    atoms.set_cell([32.4, 8.1, 16.0])
    return atoms


def layers(distance):
    atoms = graphene(size=(2, 2, 1), vacuum=distance / 2)
    atoms.pbc = True
    return atoms


def disulfide():
    sites = [(1 / 3, 2 / 3, 0.25), (1 / 3, 2 / 3, 0.621)]
    return crystal(["Mo", "S"], sites, spacegroup=194, cellpar=[3.16, 3.16, 12.3, 90, 90, 120])


def wire():
    atoms = nanotube(3, 3, length=2)
    atoms.center(vacuum=5.0, axis=(0, 1))
    atoms.pbc = True
    return atoms


def boxed(name="CH3CH2OH", vacuum=5.0):
    atoms = molecule(name)
    atoms.center(vacuum=vacuum)
    atoms.pbc = True
    return atoms


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (slab, "ab"),
        (lambda: permuted(slab(), [2, 0, 1]), "bc"),
        (lambda: permuted(slab(), [1, 2, 0]), "ac"),
        (split, "ab"),
        (diagonal, "a"),
        (stepped, "ab"),
        (lambda: slab() + ase.Atoms("He", [[1.0, 1.0, 0.0]]), "ab"),
        (lambda: mx2("MoS2", vacuum=8.0), "ab"),
        (wire, "c"),
        (boxed, ""),
        (lambda: bulk("Cu"), "abc"),
        (lambda: bulk("Cs", "bcc", a=6.14), "abc"),
        (lambda: layers(3.35), "abc"),
        (disulfide, "abc"),
        (lambda: boxed(vacuum=1.7), "abc"),
        (lambda: bulk("NaCl", "rocksalt", a=5.64).repeat(2), "abc"),
    ],
)
def test_directions_that_hold_together(make, expected):
    atoms = make()
    atoms.pbc = True
    assert "".join(np.array(ALL)[held_together(from_ase(atoms), 6.0)]) == expected


def test_where_atoms_are_written_does_not_matter():
    atoms = slab()
    moved = atoms.copy()
    moved.positions += np.random.default_rng(0).integers(-3, 4, (len(atoms), 3)) @ atoms.cell.array
    for each in (atoms, moved):
        assert held_together(from_ase(each), 6.0).tolist() == [True, True, False]
        assert gaps(from_ase(each))[2] == pytest.approx(12.0)


def test_the_reach_of_the_model_counts():
    """At 5 Å a model of 6 Å has forces between the layers and one of 4 Å has none."""
    refuse_vacuum(from_ase(layers(5.0)), ALL, 6.0)
    with pytest.raises(ConfigError, match="within 4 Å"):
        refuse_vacuum(from_ase(layers(5.0)), ALL, 4.0)
    with pytest.raises(ConfigError, match="within 6 Å"):
        refuse_vacuum(from_ase(layers(7.0)), ALL, 10.0)


@pytest.mark.parametrize(
    ("make", "free", "key", "helps"),
    [
        (slab, ALL, "dynamics.barostat.free", "[a, b]"),
        (slab, ("c",), "dynamics.barostat.free", "[a, b]"),
        (lambda: permuted(slab(), [2, 0, 1]), ALL, "dynamics.barostat.free", "[b, c]"),
        (wire, ("a", "c"), "dynamics.barostat.free", "[c]"),
        (boxed, ALL, "dynamics.ensemble", "nve"),
        (boxed, ("a",), "dynamics.ensemble", "constant cell"),
    ],
)
def test_the_refusal_names_the_setting_that_helps(make, free, key, helps):
    structure = from_ase(make())
    with pytest.raises(ConfigError) as caught:
        refuse_vacuum(structure, free, 6.0)
    assert caught.value.key == key and helps in caught.value.allowed
    assert "vacuum" in caught.value.allowed


def test_the_width_of_the_vacuum_is_said_and_what_helps_is_taken():
    with pytest.raises(ConfigError, match="12 Å along c"):
        refuse_vacuum(from_ase(slab()), ALL, 6.0)
    refuse_vacuum(from_ase(slab()), ("a", "b"), 6.0)
    refuse_vacuum(from_ase(wire()), ("c",), 6.0)
    refuse_vacuum(from_ase(disulfide()), ALL, 6.0)
