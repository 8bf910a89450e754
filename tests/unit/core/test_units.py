"""Conversion factors against CODATA, the parser of thresholds, and what error messages tell."""

import math

import pytest
from ase import units as ase_units
from hypothesis import given
from hypothesis import strategies as st
from scipy import constants

from bayes_mlff.core import errors, units

# scipy carries a later CODATA adjustment than the constants here: they differ by less than this.
CODATA_RTOL = 1e-8
# FS keeps ASE's value, from CODATA 2014.
CODATA_2014_RTOL = 1e-7

FORCES = {
    "3 kcal/mol/Å": (3.0 / 23.060548, "kcal/mol/Å"),
    "3 KCAL/mol/A": (3.0 / 23.060548, "kcal/mol/Å"),
    "0.1eV/\u212b": (0.1, "eV/Å"),  # the sign for Ångström, which is another character
    "20 meV/angstrom": (0.02, "meV/Å"),
    "4.184 kJ/mol/Å": (1.0 / 23.060548, "kJ/mol/Å"),
}


@pytest.mark.parametrize("text", FORCES)
def test_forces_in_any_unit(text):
    value, unit = FORCES[text]
    assert units.parse_force(text) == pytest.approx(value, rel=1e-12)
    shown, factor = units.force_unit(text)
    assert shown == unit and units.parse_force(f"{factor!r} {shown}") == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize(
    "text", ["3", "3 kcal/mol", "3 eV", "-1 eV/Å", "0 eV/Å", "3 Å", "3 eV/atom", "1e999 eV/A", "3 eV/Å/A"]
)
def test_what_is_no_force_is_refused_by_name(text):
    with pytest.raises(errors.ConfigError, match=r"triggers.0.threshold: got .* a unit of force"):
        units.parse_force(text, key="triggers.0.threshold")
    if "Å" in text:
        with pytest.raises(errors.ConfigError, match="threshold: got"):
            units.parse_energy(text, n_atoms=2, key="threshold")


ELECTRON_CHARGE = constants.elementary_charge


@pytest.mark.parametrize(
    ("value", "expected", "rtol"),
    [
        (units.KCAL_MOL_PER_EV, ELECTRON_CHARGE * constants.N_A / 4184.0, CODATA_RTOL),
        (units.KB, constants.k / ELECTRON_CHARGE, CODATA_RTOL),
        (units.GPA, 1e9 * 1e-30 / ELECTRON_CHARGE, CODATA_RTOL),
        (units.HARTREE, constants.physical_constants["Hartree energy in eV"][0], CODATA_RTOL),
        (units.BOHR, constants.physical_constants["Bohr radius"][0] * 1e10, CODATA_RTOL),
        (units.FS, 1e-5 * math.sqrt(ELECTRON_CHARGE / constants.atomic_mass), CODATA_2014_RTOL),
        (units.FS, ase_units.fs, 1e-12),
    ],
    ids=["kcal/mol", "k_B", "GPa", "hartree", "bohr", "fs", "fs as in ASE"],
)
def test_constant_agrees_with_codata(value, expected, rtol):
    assert value == pytest.approx(expected, rel=rtol)


def test_thermal_speed_in_internal_time_unit():
    """With FS the equipartition speed of an argon atom at 300 K comes out in Å/fs."""
    speed_internal = math.sqrt(units.KB * 300.0 / 39.948)  # Å per internal time unit
    speed_si = math.sqrt(constants.k * 300.0 / (39.948 * constants.atomic_mass))  # m/s
    assert speed_internal * units.FS == pytest.approx(speed_si * 1e-5, rel=CODATA_2014_RTOL)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("23.060548 kcal/mol", 1.0),
        ("96.485333 kJ/mol", 1.0),
        ("2 eV", 2.0),
        ("250 meV", 0.25),
        ("1.3 meV/atom", 1.3e-3 * 9),
        ("0.1eV/atom", 0.9),
        ("  .5  EV ", 0.5),
        ("+5e-1 eV", 0.5),
        ("1E+1 meV", 1e-2),
    ],
)
def test_parse_energy_gives_ev_of_the_whole_structure(text, expected):
    assert units.parse_energy(text, n_atoms=9) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "eV",
        "1",
        "0 eV",
        "-0.5 kcal/mol",
        "nan eV",
        "inf eV",
        "1e999 eV",
        "1 hartree",
        "1 eV/mol",
        "1 eV/atom/atom",
        "1 eV 2",
        "1,5 eV",
        "0x10 eV",
    ],
)
def test_parse_energy_refuses_and_names_the_key(text):
    with pytest.raises(errors.ConfigError, match=r"^otf\.threshold: ") as caught:
        units.parse_energy(text, n_atoms=9, key="otf.threshold")
    assert (caught.value.key, caught.value.value) == ("otf.threshold", text)


@given(
    value=st.floats(1e-12, 1e12),
    unit=st.sampled_from(["kcal/mol", "kJ/mol", "eV", "meV"]),
    n_atoms=st.integers(1, 10_000),
)
def test_parse_energy_is_linear_in_number_and_atoms(value, unit, n_atoms):
    one = units.parse_energy(f"1 {unit}", n_atoms=n_atoms)
    assert units.parse_energy(f"{value!r} {unit}", n_atoms=n_atoms) == pytest.approx(value * one, rel=1e-14)
    per_atom = units.parse_energy(f"{value!r} {unit}/atom", n_atoms=n_atoms)
    assert per_atom == pytest.approx(value * one * n_atoms, rel=1e-14)


def test_config_error_says_key_value_and_what_is_allowed():
    error = errors.ConfigError("sghmc.step_size", -1.0, "a positive number")
    assert str(error) == "sghmc.step_size: got -1.0; allowed: a positive number"
    assert error.allowed == "a positive number"


ENGINE_ERRORS = [errors.EngineSetupError, errors.EngineFailedError, errors.EngineRetryError]


@pytest.mark.parametrize(
    "kind",
    [errors.ConfigError, errors.DataError, errors.WeightsError, errors.RunDirectoryError, *ENGINE_ERRORS],
)
def test_every_error_is_caught_as_one_of_ours(kind):
    assert issubclass(kind, errors.BayesMlffError)


@pytest.mark.parametrize("kind", ENGINE_ERRORS)
def test_engine_errors_are_told_apart(kind):
    assert issubclass(kind, errors.EngineError)
    assert not any(issubclass(kind, other) for other in ENGINE_ERRORS if other is not kind)
