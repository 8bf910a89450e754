"""A fine-tuned calculator refuses other charges and spins than its labels', and its files say what is wrong in them."""

import numpy as np
import pytest
from ase.build import molecule
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from bayes_mlff.core.errors import DataError, WeightsError
from bayes_mlff.ensemble import saved
from bayes_mlff.ensemble.saved import Ensemble, SigmaFactors
from bayes_mlff.finetune import EnsembleCalculator
from bayes_mlff.models import registry
from bayes_mlff.testing.tiny import tiny_nequip

SMALL = tiny_nequip((1, 6, 8), r_max=2.5, energy_scales=(0.5,) * 3, energy_shifts=(-1.0, -2.0, -4.0))


def samples(state, config_text=""):
    flat = registry.initialize(SMALL, 0).flat()[0]
    parts = (SMALL, np.stack([flat, 1.01 * flat]), np.zeros((2, 3)), SigmaFactors(), 0.01, 1.0, config_text)
    return Ensemble(*parts, compositions=np.array([[2, 0, 1]]), state=state)


def stated(info, charges=None, moments=None):
    atoms = molecule("H2O")
    atoms.info |= info
    atoms.set_initial_charges(charges)
    atoms.set_initial_magnetic_moments(moments)
    return atoms


@pytest.mark.parametrize(
    ("known", "atoms", "refused"),
    [
        ({}, stated({"charge": 1}), "got charge 1; allowed: 0, neutral"),
        ({}, stated({"multiplicity": 3}), "got multiplicity 3; allowed: the lowest"),
        ({}, stated({}, charges=[1.0, 0.0, 0.0]), "got charge 1"),
        ({}, stated({}, moments=[0.0, 1.0, 1.0]), "got multiplicity 3"),
        ({}, stated({"charge": 0, "spin": 1}, charges=[-0.8, 0.4, 0.4], moments=[0.0, 1.0, -1.0]), None),
        ({"multiplicity": 1.0}, stated({"spin": 3}), "got spin 3; allowed: multiplicity 1"),
        ({"multiplicity": 1.0}, stated({"uhf": 2}), "got uhf 2"),
        ({"multiplicity": 1.0}, stated({"spin_multiplicity": 3}), "got spin_multiplicity 3"),
        ({"multiplicity": 1.0}, stated({"mult": 3}), "got mult 3"),
        ({"multiplicity": 1.0}, stated({"spin": 0, "uhf": 0}), None),
        ({"multiplicity": 3.0}, stated({"spin": 2}), None),
        ({"multiplicity": 3.0}, stated({"multiplicity": 1}), "allowed: multiplicity 3"),
        ({"charge": 1.0}, stated({}), None),  # it is taken for what was learnt
        ({"charge": 1.0}, stated({"charge": 0}), "got charge 0; allowed: 1, that of the labelled frames"),
        ({"charge": 1.0}, stated({"charge": 1, "multiplicity": 2}), None),
        ({"charge": 1.0, "spin": 1.0}, stated({"uhf": 1}), None),
        (None, stated({"charge": 1}), None),
    ],
)
def test_other_charges_and_spins_are_refused(known, atoms, refused):
    calculator = EnsembleCalculator(samples(known))
    if refused is None:
        assert "numbers" in calculator.check_state(atoms)
        return
    with pytest.raises(DataError, match=refused):
        calculator.check_state(atoms)
    with pytest.raises(DataError, match=refused):
        calculator.calculate(atoms)


def test_sets_of_several_states_allow_any():
    calculator = EnsembleCalculator(samples({}, "data:\n  electronic_states: allow\n"))
    assert "numbers" in calculator.check_state(stated({"charge": 1}))


def test_a_charge_that_is_stated_later_is_seen():
    atoms = stated({})
    atoms.calc = EnsembleCalculator(samples({}))
    atoms.get_potential_energy()
    atoms.info["charge"] = 1
    with pytest.raises(DataError, match="got charge 1"):
        atoms.get_potential_energy()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "x"}, "metadata that cannot be read .ValueError"),
        ({"format": "0"}, "format 0"),
        ({"format": "99"}, "format 99; this version reads up to"),
        ({"factors": None}, "KeyError: 'factors'"),
        ({"factors": "{"}, "cannot be read"),
        ({"factors": "[1]"}, "cannot be read"),
        ({"factors": '{"energy": null}'}, "cannot be read"),
        ({"factors": '{"other": 1.0}'}, "cannot be read"),
        ({"config": "{}"}, "cannot be read"),
        ({"energy_sigma_ev": "much"}, "cannot be read"),
        ({"stress_sigma_ev_a3": None}, "cannot be read"),
        ({"finetune": None}, "cannot be read"),
        ({"state": "[]"}, "cannot be read"),
    ],
)
def test_metadata_that_are_not_what_they_should_be(tmp_path, change, said):
    path = tmp_path / "a.safetensors"
    saved.save(samples({"charge": 1.0}), path)
    assert saved.load(path).state == {"charge": 1.0}
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata() | change
    save_file(load_file(path), path, metadata={k: v for k, v in metadata.items() if v is not None})
    with pytest.raises(WeightsError, match=said):
        saved.load(path)


def test_files_without_a_state_do_not_know_it(tmp_path):
    saved.save(samples(None), tmp_path / "a.safetensors")
    assert saved.load(tmp_path / "a.safetensors").labelled_state() is None
