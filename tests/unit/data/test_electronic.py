"""Charge and spin in the words of files: what they mean, and what is refused."""

import ase
import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from hypothesis import given
from hypothesis import strategies as st

from bayes_mlff.core.errors import DataError
from bayes_mlff.data import electronic
from bayes_mlff.data.structure import check, from_ase

AMMONIA, AMMONIUM, OXYGEN = molecule("NH3"), ase.Atoms("NH4", 2.0 * np.eye(5, 3)), molecule("O2")


def state(atoms: ase.Atoms, **info: object) -> electronic.ElectronicState:
    atoms = atoms.copy()
    atoms.calc = None
    for name in ("initial_magmoms", "initial_charges"):
        atoms.arrays.pop(name, None)
    atoms.info = dict(info)
    return electronic.from_atoms(atoms)


@pytest.mark.parametrize(
    ("info", "charge", "multiplicity"),
    [
        ({}, None, None),
        ({"charge": 1}, 1, None),
        ({"charge": "+1"}, 1, None),
        ({"Charge": -1.0, "Multiplicity": np.int64(2)}, -1, 2),
        ({"total_charge": 1, "charge": 1}, 1, None),
        ({"net_charge": np.array([2])}, 2, None),
        ({"spin_multiplicity": 3}, None, 3),
        ({"charge": 1, "mult": 2}, 1, 2),
        ({"charge": 1, "uhf": 1}, 1, 2),
        ({"unpaired_electrons": 2}, None, 3),
        ({"spin": 1}, None, 1),
        ({"spin": 0}, None, 1),
        ({"spin": 3}, None, 3),
        ({"charge": 1, "spin": 2}, 1, 2),
        ({"spin": 2, "multiplicity": 3}, None, 3),
        ({"spin": 0, "multiplicity": 1}, None, 1),
    ],
)
def test_words_of_files_for_ammonia(info, charge, multiplicity):
    found = state(AMMONIA, **info)
    assert (found.charge, found.multiplicity) == (charge, multiplicity)


def test_a_spin_of_one_is_the_multiplicity_of_a_cation_with_paired_electrons():
    assert state(AMMONIUM, charge=1, spin=1)[:2] == (1, 1)


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"charge": 0.5}, r"charge=0\.5; allowed: a whole number"),
        ({"charge": True}, "charge=True"),
        ({"charge": "x"}, "charge='x'"),
        ({"charge": float("nan")}, "charge=nan"),
        ({"charge": np.array([1, 0])}, "charge="),
        ({"charge": 10}, "10 protons"),
        ({"charge": 1, "total_charge": 0}, "contradict each other"),
        ({"multiplicity": 0}, "at least 1"),
        ({"multiplicity": 2}, r"multiplicity 2 of 10 electrons \(no charge is stated\); allowed: odd numbers up to 11"),
        ({"multiplicity": 13}, "up to 11"),
        ({"charge": 1, "multiplicity": 1}, r"9 electrons \(charge 1\); allowed: even"),
        ({"uhf": 1}, "multiplicity 2 of 10 electrons"),
        ({"uhf": 2, "multiplicity": 1}, "contradict each other"),
        ({"spin": 2}, r"spin=2 is not the multiplicity.*multiplicity=3"),
        ({"charge": 1, "spin": 0}, "spin=0 is not the multiplicity of 9 electrons"),
        ({"charge": 1, "spin": 1}, "multiplicity=2 if it is the number of unpaired"),
        ({"spin": 0.5}, r"spin=0\.5"),
        ({"total_spin": 1}, r"can mean S, 2S and 2S\+1"),
        ({"spin": 5, "multiplicity": 3}, "contradict each other"),
    ],
)
def test_what_cannot_be_or_cannot_be_told_is_refused(info, message):
    with pytest.raises(DataError, match=message):
        state(AMMONIA, **info)


@given(spin=st.integers(0, 12), charge=st.integers(-5, 5))
def test_a_spin_is_taken_only_where_it_is_a_possible_multiplicity(spin, charge):
    electrons = 10 - charge
    possible = (electrons - max(spin, 1)) % 2 == 1 and max(spin, 1) <= electrons + 1
    if possible:
        assert state(AMMONIA, spin=spin, charge=charge).multiplicity == max(spin, 1)
    else:
        with pytest.raises(DataError):
            state(AMMONIA, spin=spin, charge=charge)


def test_initial_moments_charges_and_tags_are_taken_and_zeros_are_not():
    atoms = ase.Atoms("N2", [[0, 0, 0], [0, 0, 1.1]], magmoms=[1.5, -1.5], charges=[1, 0], tags=[0, 2])
    found = electronic.from_atoms(atoms)
    np.testing.assert_array_equal(found.moments, [1.5, -1.5])
    np.testing.assert_array_equal(found.charges, [1.0, 0.0])
    np.testing.assert_array_equal(found.tags, [0, 2])
    assert found.charge is None  # never guessed from initial charges
    atoms = ase.Atoms("N2", [[0, 0, 0], [0, 0, 1.1]], magmoms=[0, 0], charges=[0, 0])
    assert electronic.from_atoms(atoms)[2:5] == (None, None, None)


def test_vectors_of_moments_are_refused():
    with pytest.raises(DataError, match=r"vectors \(non-collinear\)"):
        electronic.from_atoms(ase.Atoms("O2", [[0, 0, 0], [0, 0, 1.2]], magmoms=np.ones((2, 3))))


@pytest.mark.parametrize(("charges", "accepted"), [([0.2, 0.2], True), ([0.6, 0.6], False), ([-1.0, 0.0], False)])
def test_initial_charges_that_contradict_the_charge_are_refused(charges, accepted):
    atoms = ase.Atoms("N2", [[0, 0, 0], [0, 0, 1.1]], charges=charges, info={"charge": 0, "multiplicity": 1})
    if accepted:
        assert electronic.from_atoms(atoms).charge == 0
    else:
        with pytest.raises(DataError, match="charge 0 and initial charges that add up to"):
            electronic.from_atoms(atoms)


def test_results_of_a_calculation_are_no_initial_values():
    atoms = molecule("O2")
    del atoms.arrays["initial_magmoms"]
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, magmoms=[1.0, 1.0])
    assert electronic.from_atoms(atoms).moments is None


def test_remarks_for_calculators_are_plain_values_that_are_no_labels():
    info = {
        "config_type": "bulk", "temperature": np.float64(300.0), "REF_energy": -1.0, "dft_forces": 2, "step": 3,
        "array": np.zeros(3), "charge": 0, "virial": 1.0, 7: "seven", "flag": True,
    }  # fmt: skip
    found = state(AMMONIA, **{k: v for k, v in info.items() if isinstance(k, str)}).info
    assert found == {"config_type": "bulk", "temperature": 300.0, "flag": True}
    assert type(found["temperature"]) is float


def test_check_looks_at_the_electronic_state_of_a_structure():
    good = from_ase(OXYGEN)
    wrong = good._replace(electronic=electronic.ElectronicState(charge=0, multiplicity=2))
    check(good)
    with pytest.raises(DataError, match="multiplicity 2 of 16 electrons"):
        check(wrong)
    with pytest.raises(DataError, match=r"moments of shape \(3,\)"):
        check(good._replace(electronic=electronic.ElectronicState(moments=np.ones(3))))
