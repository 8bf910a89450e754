"""What a campaign may start from: labels of the same charge and spin, zeros of the energies of the same kind."""

import numpy as np
import pytest
from ase.build import molecule

from bayes_mlff.campaign import given
from bayes_mlff.core.errors import ConfigError
from bayes_mlff.data.dataset import LabelRecord
from bayes_mlff.data.labels import Label
from bayes_mlff.data.structure import ElectronicState, Structure, from_ase
from bayes_mlff.ensemble.atomic_energies import OwnLevels
from bayes_mlff.ensemble.saved import Ensemble, SigmaFactors
from bayes_mlff.models import registry
from bayes_mlff.testing.tiny import tiny_nequip

SMALL = tiny_nequip((1, 8), r_max=2.5, energy_scales=(0.5,) * 2, energy_shifts=(-1.0, -4.0))
WATER = np.array([[2, 1]])


def water(**state: int) -> Structure:
    return from_ase(molecule("H2O"))._replace(electronic=ElectronicState(**state))


def found(structure: Structure, **change) -> given.Read:
    model = registry.initialize(SMALL, 0)
    flat = model.flat()[0]
    parts = (SMALL, np.stack([flat, flat]), np.array([[1.0, 2.0], [1.5, 2.5]]), SigmaFactors(), 0.01, 1.0, "seed: 1\n")
    label = Label(-5.0, np.zeros((3, 3)), None)
    record = LabelRecord(structure, label, 0, 0.0, "given", 0.0, None, "a", 1.0)
    return given.Read(given.Given((record,), Ensemble(*parts, compositions=WATER)._replace(**change)), model)


def test_labels_of_another_charge_or_spin_are_refused_where_the_atoms_are_the_same():
    charged = found(water(charge=1, multiplicity=2))
    with pytest.raises(ConfigError, match=r"walker a: structure\.charge: got 0; allowed: 1, of which the labels"):
        given.refuse_other_electrons(charged, {"b": water(), "a": water(charge=0)})
    with pytest.raises(ConfigError, match=r"walker a: structure\.multiplicity: got 4"):
        given.refuse_other_electrons(charged, {"a": water(charge=1, multiplicity=4)})
    other = from_ase(molecule("H2"))._replace(electronic=ElectronicState(charge=0))
    given.refuse_other_electrons(charged, {"a": water(charge=1), "b": other})


def test_zeros_of_structures_do_not_become_those_of_elements():
    own = found(water(), own=OwnLevels(WATER, np.array([[4.0], [5.0]])))
    with pytest.raises(ConfigError, match="levels: got 'element'; allowed: structure"):
        given.refuse_other_levels(own, "element")
    given.refuse_other_levels(own, "structure")
    given.refuse_other_levels(found(water()), "element")


def test_the_zero_of_known_compositions_is_that_of_the_samples_in_the_mean():
    by_elements, own = found(water()).given, found(water(), own=OwnLevels(WATER, np.array([[4.0], [5.0]]))).given
    numbers = np.array([8, 1, 1])
    assert by_elements.offset_ev(numbers) == pytest.approx(0.5 * (4.0 + 5.5))
    assert own.offset_ev(numbers) == pytest.approx(4.5)
    assert own.knows(np.tile(numbers, 2), by_elements=False) and not own.knows(np.array([1, 1]), by_elements=False)
    assert not given.NOTHING.knows(numbers, by_elements=True)
