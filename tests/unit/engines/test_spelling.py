"""Arguments that mean a charge or a spin take effect, or are refused with the right word; never dropped."""

import ase
import numpy as np
import pytest

from bayes_mlff.core.errors import ConfigError
from bayes_mlff.data.structure import ElectronicState, Structure, from_ase
from bayes_mlff.engines.electrons import tell
from bayes_mlff.engines.engine import EngineResult, Settled
from bayes_mlff.engines.keywords import get, put

TBLITE, ORCA, QE = "tblite.ase:TBLite", "ase.calculators.orca:ORCA", "ase.calculators.espresso:Espresso"
NAMES = {TBLITE: ["atoms", "charge", "method", "multiplicity", "spin_polarization", "verbosity"]}


def o2(**state) -> Structure:
    return from_ase(ase.Atoms("O2", [[0, 0, 0], [0, 0, 1.21]]))._replace(electronic=ElectronicState(**state))


def told(calculator, arguments, structure=None, reads=()):
    given = o2() if structure is None else structure
    return tell(given, calculator, arguments, moments=given.electronic.moments, reads=reads, names=NAMES)


@pytest.mark.parametrize(
    ("calculator", "arguments", "said"),
    [
        (TBLITE, {"Charge": 2}, r"engine\.arguments\.Charge: got 2; allowed: 'charge'"),
        (TBLITE, {"MULTIPLICITY": 3}, r"arguments\.MULTIPLICITY: got 3; allowed: 'multiplicity'"),
        (TBLITE, {"Method": "GFN1-xTB"}, r"arguments\.Method: got 'GFN1-xTB'; allowed: 'method'"),
        (ORCA, {"Mult": 3}, r"arguments\.Mult: got 3; allowed: 'mult'"),
        ("some.where:Calculator", {"charge": 0, "Charge": 2}, r"arguments\.Charge: got 2; allowed: 'charge'"),
        (QE, {"Input_Data": {"system": {"tot_charge": 1}}}, r"arguments\.Input_Data: .*allowed: 'input_data'"),
        (TBLITE, {"total_charge": 2}, r"arguments\.total_charge: got 2; allowed: 'charge'"),
        (TBLITE, {"net_charge": 2}, r"arguments\.net_charge: got 2; allowed: 'charge'"),
        (TBLITE, {"netCharge": 2}, r"arguments\.netCharge: got 2; allowed: 'charge'"),
        (TBLITE, {"mult": 3}, r"arguments\.mult: got 3; allowed: 'multiplicity' \(2S \+ 1\)"),
        (TBLITE, {"spin": 3}, r"arguments\.spin: got 3; allowed: 'multiplicity'"),
        (TBLITE, {"Spin-Multiplicity": 3}, r"Spin-Multiplicity: got 3; allowed: 'multiplicity'"),
        (TBLITE, {"n_unpaired": 2}, r"arguments\.n_unpaired: got 2; allowed: 'multiplicity'"),
        (ORCA, {"multiplicity": 3}, r"arguments\.multiplicity: got 3; allowed: 'mult'"),
        (ORCA, {"UHF": 2}, r"arguments\.UHF: got 2; allowed: 'mult'"),
        ("ase.calculators.turbomole:Turbomole", {"total_charge": 1}, "allowed: 'total charge'"),
        ("ase.calculators.vasp:Vasp", {"uhf": 2}, r"allowed: 'nupdown' \(2S\)"),
        ("ase.calculators.vasp:Vasp", {"nelect": 11.0}, r"arguments\.nelect: got 11\.0; allowed: 'charge'"),
        ("ase.calculators.openmx:OpenMX", {"unpaired": 2}, r"allowed: nothing: .* state structure\.multiplicity"),
        ("xtb.ase:XTB", {"charge": 1}, r"allowed: nothing: .* state structure\.charge"),
        (QE, {"tot_charge": 1}, r"arguments\.tot_charge: got 1; allowed: 'input_data\.system\.tot_charge'"),
        (QE, {"input_data": {"system": {"charge": 1}}}, r"input_data\.system\.charge: got 1; .*tot_charge"),
        ("ase.calculators.nwchem:NWChem", {"mult": 3}, r"allowed: 'dft\.mult'"),
        ("some.where:Calculator", {"charge": 0, "total_charge": 2}, r"total_charge: got 2; allowed: 'charge'"),
        (TBLITE, {"methud": "GFN2-xTB"}, r"arguments\.methud: got 'GFN2-xTB'; allowed: 'method', or another"),
        (TBLITE, {"zzz": 1}, r"arguments\.zzz: got 1; allowed: one of the arguments of tblite"),
        (TBLITE, {"charge": "1"}, r"arguments\.charge: got '1'; allowed: a whole number"),
        (TBLITE, {"charge": True}, r"arguments\.charge: got True; allowed: a whole number"),
        (TBLITE, {"multiplicity": [3]}, r"arguments\.multiplicity: got \[3\]; allowed: a whole number"),
        (TBLITE, {"charge": float("nan")}, r"arguments\.charge: got nan; allowed: a whole number"),
    ],
)
def test_what_would_be_dropped_is_refused_with_the_right_word(calculator, arguments, said):
    with pytest.raises(ConfigError, match=said):
        told(calculator, arguments)


def test_a_wrong_word_within_a_sum_is_refused_at_its_place():
    part = {"calculator": TBLITE, "arguments": {"total_charge": -1}}
    with pytest.raises(ConfigError, match=r"engine\.arguments\.calcs\.0\.arguments\.total_charge: got -1"):
        told("ase.calculators.mixing:SumCalculator", {"calcs": [part]}, o2(charge=1))


@pytest.mark.parametrize(
    ("calculator", "arguments", "expected"),
    [
        (TBLITE, {"label": "x", "method": "GFN1-xTB"}, {"charge": 0, "multiplicity": 1}),
        (TBLITE, {"uhf": 2}, {"charge": 0, "multiplicity": 3}),  # read as 2S
        (TBLITE, {"charge": None}, {"charge": 0}),
        ("ase.calculators.turbomole:Turbomole", {"uhf": True}, {"multiplicity": 1}),
        ("ase.calculators.vasp:Vasp", {"nelect": None}, {}),
        ("some.where:Calculator", {"spin": "collinear", "anything": 1}, {}),
    ],
)
def test_what_a_calculator_takes_stays(calculator, arguments, expected):
    found = told(calculator, arguments).arguments
    assert {name: found.get(name) for name in expected} == expected
    assert all(found[name] == value for name, value in arguments.items() if value is not None)


def test_case_counts_at_the_top_and_not_in_sections():
    path = ("input_data", "system", "tot_charge")
    sections = {"input_data": {"SYSTEM": {"TOT_CHARGE": 1}}}
    assert get(sections, path) == 1 and get({"Charge": 1}, ("charge",)) is None
    assert put(sections, path, 2) == {"input_data": {"SYSTEM": {"TOT_CHARGE": 2}}}
    assert put({"Charge": 1}, ("charge",), 2) == {"Charge": 1, "charge": 2}


def test_the_settled_state_is_that_of_the_label_and_nothing_is_said_for_methods_without_electrons():
    charged = o2(charges=np.array([1.0, 0.0]))
    assert told(TBLITE, {}, charged).settled == (1, 2)
    assert told(TBLITE, {"charge": 2, "multiplicity": 3}).settled == (2, 3)
    assert told("ase.calculators.emt:EMT", {}).settled == (None, None)
    assert told("some.where:Calculator", {}, reads=("arguments",)).settled == (None, None)
    assert told("some.where:Calculator", {}, o2(charge=1), ("arguments",)).settled == (1, None)
    result = EngineResult(None, charged, True, 0.0, 1, (), Settled(1, 2))  # type: ignore[arg-type]
    labelled = result.labelled(charged).electronic
    assert (labelled.charge, labelled.multiplicity) == (1, 2) and labelled.charges is charged.electronic.charges
    assert result._replace(settled=Settled()).labelled(o2(charge=3)).electronic.charge == 3
