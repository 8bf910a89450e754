"""Built-in systems: which profile runs, what is said about it, and how its settings are changed."""

from pathlib import Path

import ase
import numpy as np
import pytest
from ase.geometry import get_distances
from typer.testing import CliRunner

from bayes_mlff.api import runner
from bayes_mlff.api.observing import Silent
from bayes_mlff.cli import app as command
from bayes_mlff.core import jax_start
from bayes_mlff.core.errors import ConfigError, DataError
from bayes_mlff.engines.ase_engine import AseSettings
from bayes_mlff.engines.chgnet import ChgnetSettings
from bayes_mlff.engines.gpaw.settings import GpawSettings
from bayes_mlff.otf import config, systems


@pytest.mark.parametrize(
    ("system", "accelerator", "profile"),
    [
        ("lamno3", False, "demo"),
        ("lamno3", True, "large"),
        ("cazrs3", False, "demo"),
        ("cazrs3", True, "large"),
        ("ethanol", False, "demo"),
        ("ethanol", True, "demo"),
    ],
)
def test_an_accelerator_gets_the_large_profile_where_there_is_one(system, accelerator, profile):
    assert systems.default_profile(system, accelerator=accelerator) == profile


@pytest.mark.parametrize("profile", ["demo", "large", "paper"])
def test_the_introduction_names_profile_cost_and_what_can_be_chosen(profile):
    said = systems.introduction("lamno3", profile)
    assert said.startswith(f"profile {profile} of demo, large, paper (--profile): ")
    assert ("about 10 minutes" in said) == (profile == "demo")
    assert (f"check --system lamno3 --profile {profile}" in said) == (profile != "demo")
    for name in ("'bayes-mlff models'", "gpaw", "chgnet", "worker", "ase", "pyscf"):
        assert name in said


def parsed(*overrides: str) -> config.RunConfig:
    raw = systems.settings("lamno3", "demo")
    command.override(raw, list(overrides))
    return config.parse(raw)


def test_another_engine_starts_its_section_anew_whatever_comes_first():
    assert isinstance(parsed("engine.name=chgnet").engine, ChgnetSettings)
    engine = parsed("engine.stress=true", "engine.calculator=ase.calculators.emt:EMT", "engine.name=ase").engine
    assert isinstance(engine, AseSettings) and engine.stress and engine.calculator == "ase.calculators.emt:EMT"


def test_naming_the_engine_that_is_there_keeps_its_settings():
    engine = parsed("engine.name=gpaw", "engine.cutoff_ev=500").engine
    assert isinstance(engine, GpawSettings) and engine.cutoff_ev == 500.0 and engine.hubbard["Mn"].u_ev == 4.0


@pytest.fixture
def checked(monkeypatch):
    """Settings with which `check` would have worked."""
    seen = []
    monkeypatch.setattr(jax_start, "start_jax", lambda chains: None)
    monkeypatch.setattr(runner, "check", lambda config, **_: seen.append(config))
    return seen


def test_check_takes_a_built_in_system(checked):
    done = CliRunner().invoke(
        command.app, ["check", "--system", "lamno3", "--profile", "large"], catch_exceptions=False
    )
    assert done.exit_code == 0
    assert [c.structure.file for c in checked] == ["lamno3-40"]


@pytest.mark.parametrize("arguments", [["check"], ["check", "run.yaml", "--system", "lamno3"]])
def test_check_wants_a_file_or_a_system(checked, arguments):
    error = CliRunner().invoke(command.app, arguments).exception
    assert isinstance(error, ConfigError) and "--system" in str(error) and not checked


def test_an_element_that_the_model_does_not_know_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(runner.selfcheck, "ensure", lambda say: None)
    places = 2.0 * np.arange(5.0)[:, None] * np.ones(3)
    ase.Atoms("LaFeO3", positions=places, cell=[11.0] * 3, pbc=True).write(tmp_path / "iron.xyz")
    raw = systems.settings("lamno3", "demo") | {"structure": str(tmp_path / "iron.xyz")}
    with pytest.raises(DataError, match=r"structure: got elements \['Fe'\].*allowed.*'Mn'"):
        runner.check(config.parse(raw), base=Path(), observer=Silent(), label=False)


def test_the_cells_of_lamno3_are_those_that_were_measured():
    """Pbnm at room temperature, lattice and three Mn-O distances: Rodríguez-Carvajal 1998, Phys. Rev. B 57, R3189."""
    small, large = (systems.structure(name, base=Path()) for name in ("lamno3", "lamno3-40"))
    np.testing.assert_allclose(np.diag(small.cell), [5.5367, 5.7473, 7.6929])
    assert abs(np.linalg.det(large.cell)) == pytest.approx(2.0 * np.linalg.det(small.cell), rel=1e-6)
    for crystal in (small, large):
        manganese, oxygen = crystal.positions[crystal.numbers == 25], crystal.positions[crystal.numbers == 8]
        _, distance = get_distances(manganese, oxygen, cell=crystal.cell, pbc=True)
        bonds = np.sort(distance, axis=1)[:, :6].reshape(-1, 3, 2).mean(axis=(0, 2))
        np.testing.assert_allclose(bonds, [1.907, 1.968, 2.178], atol=0.005)


@pytest.mark.parametrize(
    ("name", "formula", "cell"),
    [("cazrs3", "HCa4S12Zr4", [6.574, 7.068, 9.638]), ("cazrs3-162", "H2Ca32S96Zr32", [13.148, 14.136, 19.276])],
)
def test_every_proton_of_cazrs3_is_bound_to_one_sulphur(name, formula, cell):
    """The cell of the published run; an S-H bond has 1.34 to 1.45 Å."""
    crystal = systems.structure(name, base=Path())
    assert ase.Atoms(crystal.numbers).get_chemical_formula("hill") == formula
    np.testing.assert_allclose(np.diag(crystal.cell), cell)
    proton = crystal.numbers == 1
    _, distance = get_distances(crystal.positions[proton], crystal.positions[~proton], cell=crystal.cell, pbc=True)
    nearest = np.argsort(distance, axis=1)
    assert (crystal.numbers[~proton][nearest[:, 0]] == 16).all()
    assert ((distance.min(axis=1) > 1.34) & (distance.min(axis=1) < 1.45)).all()
    assert (np.sort(distance, axis=1)[:, 1] > 2.0).all()


@pytest.mark.parametrize("name", list(systems.SYSTEMS))
def test_every_profile_is_a_valid_configuration(name):
    for profile in systems.SYSTEMS[name]:
        made = config.parse(systems.settings(name, profile))
        assert made.structure.file in systems.STRUCTURES and made.n_steps > 0
