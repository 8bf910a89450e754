"""Structures from and to ASE, and what is refused as structure or label."""

import ase
import ase.build
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bayes_mlff.core.errors import ConfigError, DataError
from bayes_mlff.data import structure as structures
from bayes_mlff.data.labels import Label, check_label


def finite(bound: float) -> st.SearchStrategy[float]:
    return st.floats(-bound, bound, allow_nan=False)


@st.composite
def valid_structures(draw) -> structures.Structure:
    """1 to 6 atoms with any periodicity; a triangular cell, so that its planes are 0.15 Å apart at least."""
    n = draw(st.integers(1, 6))
    lengths = draw(hnp.arrays(np.float64, 3, elements=st.floats(1.0, 20.0)))
    tilt = np.tril(draw(hnp.arrays(np.float64, (3, 3), elements=finite(2.0))), -1)
    return structures.Structure(
        draw(hnp.arrays(np.int64, n, elements=st.integers(1, 118))),
        draw(hnp.arrays(np.float64, (n, 3), elements=finite(100.0))),
        np.diag(lengths) + tilt,
        draw(hnp.arrays(np.bool_, 3)),
    )


@st.composite
def stated(draw) -> structures.Structure:
    """The same with any of masses, held coordinates and an electronic state that the electrons allow."""
    structure = draw(valid_structures())
    n, electrons = len(structure.numbers), int(structure.numbers.sum())

    def numbers(low: float, high: float) -> st.SearchStrategy[np.ndarray]:
        return hnp.arrays(np.float64, n, elements=st.floats(low, high))

    charge = draw(st.none() | st.integers(-3, electrons - 1))
    left = electrons - (charge or 0)
    multiplicities = st.integers(0, left // 2).map(lambda pairs: left + 1 - 2 * pairs)
    charges = numbers(-0.5, 0.5).map(lambda x: x - x.mean() + (charge or 0) / n)
    state = structures.ElectronicState(
        charge,
        draw(st.none() | multiplicities),
        draw(st.none() | numbers(0.1, 5.0)),
        draw(st.none() | charges.filter(np.any)),
        draw(st.none() | hnp.arrays(np.int64, n, elements=st.integers(1, 5))),
        draw(st.dictionaries(st.sampled_from(["label", "config", "seed"]), st.integers() | st.text() | st.booleans())),
    )
    held = hnp.arrays(np.bool_, (n, 3)).filter(np.any)
    return structure._replace(
        masses=draw(st.none() | numbers(1.5, 1.9)), fixed=draw(st.none() | held), electronic=state
    )


def assert_same(after: object, before: object, name: str) -> None:
    if isinstance(before, np.ndarray):
        assert isinstance(after, np.ndarray) and after.dtype == before.dtype, name
        np.testing.assert_array_equal(after, before, err_msg=name)
    else:
        assert type(after) is type(before) and after == before, name


@given(stated())
def test_round_trip_through_ase_keeps_every_bit(structure):
    back = structures.from_ase(structures.to_ase(structure, constraints=True))
    for name in set(structure._fields) - {"electronic"}:
        assert_same(getattr(back, name), getattr(structure, name), name)
    for name, before, after in zip(structure.electronic._fields, structure.electronic, back.electronic, strict=True):
        assert_same(after, before, name)


@given(stated())
def test_a_calculator_is_given_no_constraints_unless_it_asks_for_them(structure):
    assert structures.from_ase(structures.to_ase(structure)).fixed is None
    given_constraints = structures.to_ase(structure, constraints=True)
    assert structures.from_ase(given_constraints, constraints=False).fixed is None


@given(valid_structures())
def test_is_periodic_only_in_three_directions(structure):
    assert structure.is_periodic is (structure.pbc.tolist() == [True, True, True])


def test_structure_does_not_follow_later_changes_of_the_ase_object():
    atoms = ase.build.bulk("Cu", cubic=True)
    before = structures.from_ase(atoms)
    expected = [np.array(field) for field in before[:4]]
    atoms.positions += 1.0
    atoms.numbers[:] = 1
    atoms.cell[0, 0] = 9.0
    atoms.pbc = False
    for name, field, kept in zip(before._fields, before, expected, strict=False):
        np.testing.assert_array_equal(field, kept, err_msg=name)


def test_positions_outside_the_cell_are_not_wrapped():
    atoms = ase.Atoms("H", positions=[[-7.0, 12.0, 3.0]], cell=[5.0, 5.0, 5.0], pbc=True)
    np.testing.assert_array_equal(structures.from_ase(atoms).positions, [[-7.0, 12.0, 3.0]])


@pytest.mark.parametrize("pbc", [(False, False, False), (True, True, False)])
def test_directions_that_do_not_repeat_need_no_vector(pbc):
    cell = np.diag([4.0 if periodic else 0.0 for periodic in pbc])
    structure = structures.from_ase(ase.Atoms("H", cell=cell, pbc=pbc))
    np.testing.assert_array_equal(structure.cell, cell)


def cubic(**changes: object) -> structures.Structure:
    """One hydrogen atom in a 4 Å cube, with some fields replaced."""
    good = structures.Structure(np.array([1]), np.zeros((1, 3)), 4.0 * np.eye(3), np.ones(3, bool))
    return good._replace(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"numbers": np.array([], int), "positions": np.zeros((0, 3))}, "0 atoms"),
        ({"positions": np.array([[0.0, np.nan, 0.0]])}, "finite"),
        ({"positions": np.array([[0.0, np.inf, 0.0]])}, "finite"),
        ({"cell": np.diag([4.0, 4.0, np.inf])}, "finite"),
        ({"numbers": np.array([0])}, "atomic number 0"),
        ({"numbers": np.array([119])}, "atomic number 119"),
        ({"cell": np.diag([4.0, 4.0, 0.0])}, "linearly independent"),
        ({"cell": np.array([[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [4.0, 4.0, 0.0]])}, "linearly independent"),
        ({"cell": np.diag([4.0, 4.0, 0.49])}, "at least 0.5"),
    ],
)
def test_unusable_structure_is_refused(changes, message):
    with pytest.raises(DataError, match=message):
        structures.check(cubic(**changes))


def test_shortest_allowed_cell_vector_passes():
    structures.check(cubic(cell=np.diag([4.0, 4.0, 0.51])))


def test_from_ase_checks_the_structure():
    with pytest.raises(DataError, match="atomic number 0"):
        structures.from_ase(ase.Atoms("X"))


def label(**changes: object) -> Label:
    """A valid label of two atoms, with some fields replaced."""
    return Label(-1.5, np.zeros((2, 3)), np.zeros((3, 3)))._replace(**changes)


@pytest.mark.parametrize("stress", [None, np.zeros((3, 3))])
def test_complete_label_passes(stress):
    check_label(label(stress=stress), n_atoms=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"energy": np.nan}, r"label\.energy: got nan"),
        ({"energy": -np.inf}, r"label\.energy: got -inf"),
        ({"forces": np.zeros((3, 3))}, r"label\.forces: got shape \(3, 3\); allowed: \(2, 3\)"),
        ({"forces": np.zeros(6)}, r"label\.forces: got shape \(6,\)"),
        ({"stress": np.zeros(6)}, r"label\.stress: got shape \(6,\); allowed: \(3, 3\)"),
    ],
)
def test_incomplete_label_is_refused(changes, message):
    with pytest.raises(DataError, match=message):
        check_label(label(**changes), n_atoms=2)


@given(
    name=st.sampled_from(["forces", "stress"]),
    bad=st.sampled_from([np.nan, np.inf, -np.inf]),
    row=st.integers(0, 1),
    column=st.integers(0, 2),
)
def test_one_bad_component_anywhere_is_named(name, bad, row, column):
    array = getattr(label(), name).copy()
    array[row, column] = bad
    with pytest.raises(DataError, match=rf"label\.{name}: not finite .*\[\[{row}, {column}\]\]"):
        check_label(label(**{name: array}), n_atoms=2)


def test_copies_are_those_of_ase_and_directions_without_periodicity_are_not_repeated():
    atoms = ase.build.bulk("Cu", "fcc", a=3.6, cubic=True)
    atoms.set_cell(atoms.cell.array + np.array([[0.0, 0.1, 0.0], [0.0, 0.0, 0.2], [0.3, 0.0, 0.0]]))
    atoms.set_initial_magnetic_moments([1.0, -1.0, 2.0, 0.5])
    unit = structures.from_ase(atoms)._replace(fixed=np.arange(12).reshape(4, 3) == 0)
    many, expected = structures.repeated(unit, (2, 3, 1)), atoms.repeat((2, 3, 1))
    np.testing.assert_allclose(many.positions, expected.positions, atol=1e-12)
    np.testing.assert_allclose(many.cell, expected.cell.array)
    np.testing.assert_array_equal(many.electronic.moments, expected.get_initial_magnetic_moments())
    assert many.fixed is not None and many.fixed.sum() == 6 and many.fixed[4, 0]
    charged = unit._replace(electronic=unit.electronic._replace(charge=1, multiplicity=2))
    assert structures.repeated(charged, (2, 1, 1)).electronic[:2] == (2, None)
    assert structures.repeated(unit, (1, 1, 1)) is unit
    slab = unit._replace(pbc=np.array([True, True, False]))
    with pytest.raises(ConfigError, match=r"supercell: .*1 along c"):
        structures.repeated(slab, (2, 2, 2))
