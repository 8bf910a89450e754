"""Engines on cheap calculators: nothing that an engine says is believed without a check."""

import copy
import re
import sys
import types
from pathlib import Path

import ase
import numpy as np
import pytest
import yaml
from ase.build import bulk, molecule
from ase.calculators.calculator import (
    CalculationFailed,
    Calculator,
    CalculatorSetupError,
    Parameters,
    PropertyNotImplementedError,
    all_changes,
)
from ase.calculators.cp2k import CP2K
from ase.calculators.emt import EMT
from ase.calculators.espresso import Espresso, EspressoProfile
from ase.calculators.vasp import Vasp
from ase.units import Rydberg
from pydantic import TypeAdapter, ValidationError

from bayes_mlff.core.errors import (
    ConfigError,
    DataError,
    EngineFailedError,
    EngineRetryError,
    EngineSetupError,
)
from bayes_mlff.data.labels import Label
from bayes_mlff.data.structure import Structure, from_ase, to_ase
from bayes_mlff.engines.ase_engine import AseEngine, AseSettings
from bayes_mlff.engines.calculator import EngineCalculator
from bayes_mlff.engines.engine import Engine, EngineResult, hash_settings, retry
from bayes_mlff.engines.moments import moments_of_elements
from bayes_mlff.engines.pyscf.engine import PyscfEngine, PyscfSettings
from bayes_mlff.engines.registry import EngineSettings, make_engine
from bayes_mlff.engines.verified import VerifiedEngine, verified_label
from bayes_mlff.engines.worker.engine import WorkerSettings
from bayes_mlff.otf import systems
from tests.support.places import ROOT


def copper(seed: int = 0) -> Structure:
    atoms = bulk("Cu", cubic=True)
    atoms.set_cell(atoms.cell.array + 0.1 * np.tril(np.random.default_rng(9).normal(size=(3, 3))), scale_atoms=True)
    atoms.rattle(0.1, seed=seed)
    return from_ase(atoms)


def water(seed: int = 0) -> Structure:
    atoms = molecule("H2O")
    atoms.rattle(0.05, seed=seed)
    return from_ase(atoms)


def planted(behaviour: str) -> type[Calculator]:
    """A calculator with one fault."""

    class Faulty(EMT):
        count = 0
        made = 0

        def __init__(self, gentle: bool = False, **kwargs):
            super().__init__(**kwargs)
            type(self).made += 1
            self.gentle = gentle

        def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
            type(self).count += 1
            if behaviour == "stale geometry" and self.results:
                return
            kept = getattr(self, "results_before", None)
            super().calculate(atoms, properties, system_changes)
            if behaviour == "stale numbers" and kept is not None:
                self.results = kept
            self.results_before = copy.deepcopy(self.results)
            if behaviour in (spoilt := {"nan": ("forces", (1, 2)), "stress nan": ("stress", 3)}):
                name, place = spoilt[behaviour]
                self.results[name][place] = np.nan
            if behaviour == "energy nan":
                self.results["energy"] = self.results["free_energy"] = float("nan")
            if behaviour == "shape":
                self.results["forces"] = self.results["forces"][:-1]
            if behaviour == "free energy":
                self.results["free_energy"] = self.results["energy"] - 1.0
            if behaviour == "own error" and not self.gentle:
                raise sys.modules["planted_package"].OwnConvergenceError("did not converge")
            if behaviour == "failed":
                raise CalculationFailed("scf")
            if behaviour == "failed once" and type(self).count == 1:
                raise CalculationFailed("scf")
            if behaviour == "setup":
                raise CalculatorSetupError("no pseudopotential")
            if behaviour == "executable":
                raise FileNotFoundError("pw.x")
            if behaviour == "bug":
                raise KeyError("a bug of the calculator")

        def get_property(self, name, atoms=None, allow_calculation=True):
            if behaviour == "stale geometry" and self.results:
                return self.results[name]
            return super().get_property(name, atoms, allow_calculation)

    return Faulty


@pytest.fixture
def plant(monkeypatch):
    """Make an importable package with one faulty calculator and an error class of its own."""

    def put(behaviour: str) -> type[Calculator]:
        package = types.ModuleType("planted_package")
        package.Faulty = planted(behaviour)
        package.OwnConvergenceError = type("OwnConvergenceError", (Exception,), {"__module__": "planted_package.scf"})
        monkeypatch.setitem(sys.modules, "planted_package", package)
        return package.Faulty

    return put


FAULTY = AseSettings(calculator="planted_package:Faulty")


@pytest.mark.parametrize("path", ["ase.calculators.emt:EMT", "ase.calculators.emt.EMT"])
def test_a_calculator_by_path_gives_its_own_numbers(path):
    structure = copper()
    atoms = ase.Atoms(structure.numbers, structure.positions, cell=structure.cell, pbc=True, calculator=EMT())
    with make_engine(AseSettings(calculator=path, stress=True)) as engine:
        assert isinstance(engine, Engine)
        engine.check(structure)
        result = engine.label(structure)
    assert result.label.energy == atoms.get_potential_energy(force_consistent=True)
    np.testing.assert_array_equal(result.label.forces, atoms.get_forces())
    np.testing.assert_array_equal(result.label.stress, atoms.get_stress(voigt=False))
    assert result.attempts == 1 and result.converged and result.seconds > 0.0


@pytest.mark.parametrize(
    "settings",
    [
        AseSettings(calculator="ase.calculators.emt:EMT", stress=True),
        AseSettings(
            calculator="ase.calculators.lj:LennardJones",
            stress=True,
            arguments={"sigma": 2.2, "smooth": True},
        ),
    ],
)
def test_label_is_the_slope_of_the_energy_in_positions_and_strain(settings):
    """dE = -F·dr + V S:ε by central differences; a stress with the wrong sign or Voigt order fails."""
    rng = np.random.default_rng(3)
    structure, h = copper(), 1e-5
    move, strain = rng.normal(size=(4, 3)), rng.normal(size=(3, 3))
    strain = 0.5 * (strain + strain.T)

    def moved(x: float) -> Structure:
        deform = np.eye(3) + x * strain
        return structure._replace(positions=(structure.positions + x * move) @ deform, cell=structure.cell @ deform)

    with make_engine(settings) as engine:
        here = engine.label(structure).label
        slope = (engine.label(moved(h)).label.energy - engine.label(moved(-h)).label.energy) / (2 * h)
    expected = -np.sum(here.forces * move) + abs(np.linalg.det(structure.cell)) * np.sum(here.stress * strain)
    assert abs(slope - expected) < 1e-5 * max(1.0, abs(expected))


def test_stress_only_where_asked_for_and_defined():
    with make_engine(AseSettings(calculator="ase.calculators.emt:EMT")) as engine:
        assert engine.label(copper()).label.stress is None
    with make_engine(AseSettings(calculator="ase.calculators.emt:EMT", stress=True)) as engine:
        assert engine.label(copper()._replace(pbc=np.array([True, True, False]))).label.stress is None


def test_the_free_energy_is_taken_where_there_is_one(plant):
    plant("free energy")
    with make_engine(FAULTY) as engine, make_engine(AseSettings(calculator="ase.calculators.emt:EMT")) as emt:
        assert engine.label(copper()).label.energy == pytest.approx(emt.label(copper()).label.energy - 1.0, abs=1e-12)


@pytest.mark.parametrize("behaviour", ["stale geometry", "stale numbers"])
def test_an_old_result_is_refused(plant, behaviour):
    plant(behaviour)
    with make_engine(FAULTY) as engine:
        engine.label(copper(0))
        with pytest.raises(EngineFailedError, match=r"different geometry|another geometry"):
            engine.label(copper(1))


def test_the_same_geometry_again_is_no_old_result():
    with make_engine(AseSettings(calculator="ase.calculators.emt:EMT")) as engine:
        first, again = engine.label(copper()).label, engine.label(copper()).label
        assert first.energy == again.energy


@pytest.mark.parametrize(
    ("behaviour", "what"),
    [("nan", "forces"), ("energy nan", "energy"), ("stress nan", r"label\.stress: .*not finite"), ("shape", "shape")],
)
def test_unusable_results_are_refused(plant, behaviour, what):
    plant(behaviour)
    settings = FAULTY.model_copy(update={"stress": True})
    with make_engine(settings) as engine, pytest.raises(EngineFailedError, match=what):
        engine.label(copper())


def test_a_calculator_without_stress_is_refused_before_it_calculates(plant):
    plant("none").implemented_properties = ["energy", "forces"]
    said = r"engine\.calculator: planted_package:Faulty has no stress; allowed: .*and stress, or engine\.stress: false"
    settings = FAULTY.model_copy(update={"stress": True})
    with make_engine(settings) as engine, pytest.raises(EngineSetupError, match=said):
        engine.check(copper())


@pytest.mark.parametrize(
    ("behaviour", "error", "calls"),
    [
        ("failed", EngineFailedError, 2),
        ("own error", EngineFailedError, 2),
        ("setup", EngineSetupError, 1),
        ("executable", EngineSetupError, 1),
        ("bug", EngineFailedError, 1),
    ],
)
def test_a_calculators_errors_are_told_apart(plant, behaviour, error, calls):
    faulty = plant(behaviour)
    with make_engine(FAULTY) as engine, pytest.raises(error) as caught:
        engine.label(copper())
    assert faulty.count == calls
    if behaviour == "bug":
        assert "KeyError: 'a bug of the calculator'" in str(caught.value) and "test_engines.py, line" in str(
            caught.value
        )
    elif error is EngineFailedError:
        assert "attempt 1 of 2" in str(caught.value) and "attempt 2 of 2" in str(caught.value)


def test_a_retry_takes_a_new_calculator_with_the_changed_setting_and_the_next_label_the_first_again(plant):
    faulty = plant("own error")
    settings = FAULTY.model_copy(update={"retries": ({}, {"gentle": True})})
    with make_engine(settings) as engine:
        for k in (1, 2):
            result = engine.label(copper(k))
            assert result.attempts == 3 and faulty.made == 3 * k
            assert sum("OwnConvergenceError: did not converge" in line for line in result.diagnostics) == 2


def test_the_engine_remains_usable_after_a_failure(plant):
    faulty = plant("failed once")
    with make_engine(FAULTY.model_copy(update={"retries": ()})) as engine:
        with pytest.raises(EngineFailedError, match="scf"):
            engine.label(copper())
        assert engine.label(copper()).attempts == 1
    assert faulty.made == 2


def test_named_exceptions_count_as_failures(plant):
    plant("bug")
    settings = FAULTY.model_copy(update={"retry_exceptions": ("builtins:KeyError",)})
    with make_engine(settings) as engine, pytest.raises(EngineFailedError, match="KeyError"):
        engine.label(copper())
    with pytest.raises(EngineSetupError, match="not an exception class"):
        make_engine(settings.model_copy(update={"retry_exceptions": ("builtins:print",)}))


def test_one_calculator_or_one_for_each_label(plant):
    faulty = plant("none")
    with make_engine(FAULTY) as engine:
        [engine.label(copper(seed)) for seed in (0, 1)]
    assert faulty.made == 1
    with make_engine(FAULTY.model_copy(update={"reuse_calculator": False})) as engine:
        [engine.label(copper(seed)) for seed in (0, 1)]
    assert faulty.made == 3


@pytest.mark.parametrize("pbc", [False, True])
def test_close_contacts_are_refused_before_the_call(plant, pbc):
    faulty = plant("none")
    structure = copper()._replace(pbc=np.array([pbc] * 3))
    positions = structure.positions.copy()
    # The second case is close only through the cell's boundary.
    positions[3] = positions[0] + (structure.cell[0] if pbc else 0.0) + [0.0, 0.0, 0.3]
    with (
        make_engine(FAULTY) as engine,
        pytest.raises(EngineFailedError, match=r"0 \(Cu\) and 3 \(Cu\) are 0\.300 Å"),
    ):
        engine.label(structure._replace(positions=positions))
    assert faulty.count == 0


def test_net_force_is_subtracted_on_request_and_changes_the_hash():
    class Pushed:
        settings_hash, description = "sha256:0", "pushed"

        def label(self, structure):
            forces = np.arange(9.0).reshape(3, 3)
            return EngineResult(Label(1.0, forces), structure, True, 0.0, 1, ())

    result = verified_label(Pushed(), water(), min_distance_angstrom=0.5, subtract_net_force=True)
    np.testing.assert_allclose(result.label.forces, [[-3.0] * 3, [0.0] * 3, [3.0] * 3])
    assert "mean force of 7.07e+00" in result.diagnostics[-1]
    assert verified_label(Pushed(), water(), min_distance_angstrom=0.5).label.forces[0, 1] == 1.0
    with_, without = (
        VerifiedEngine(Pushed(), min_distance_angstrom=0.5, subtract_net_force=yes).settings_hash for yes in (1, 0)
    )
    assert without == "sha256:0" != with_


def test_an_engine_that_admits_to_be_unconverged_or_permutes_atoms_is_refused():
    class Odd:
        settings_hash, description = "sha256:0", "odd"

        def __init__(self, converged, order):
            self.converged, self.order = converged, order

        def label(self, structure):
            evaluated = structure._replace(numbers=structure.numbers[self.order], positions=structure.positions)
            return EngineResult(Label(0.0, np.zeros((3, 3))), evaluated, self.converged, 0.0, 1, ())

    with pytest.raises(EngineFailedError, match="unconverged"):
        verified_label(Odd(False, [0, 1, 2]), water(), min_distance_angstrom=0.5)
    with pytest.raises(EngineFailedError, match="elements"):
        verified_label(Odd(True, [1, 0, 2]), water(), min_distance_angstrom=0.5)
    verified_label(Odd(True, [0, 1, 2]), water(), min_distance_angstrom=0.5)


def test_the_ladder_stops_at_the_first_success_and_passes_other_errors_on():
    tried = []

    def attempt(rung):
        tried.append(rung)
        if rung < 2:
            raise EngineRetryError(f"reason {rung}")
        return "label"

    assert retry(attempt, 5, description="x") == (
        "label",
        ("attempt 1 of 5: reason 0", "attempt 2 of 5: reason 1"),
    )
    assert tried == [0, 1, 2]
    with pytest.raises(EngineFailedError, match=r"x: .*reason 0; .*reason 1$"):
        retry(attempt, 2, description="x")


def test_missing_packages_name_the_command_that_installs_them(monkeypatch):
    with pytest.raises(
        EngineSetupError, match=r"cannot import module 'no_such_engine\.ase': /\S+ has none of"
    ) as caught:
        make_engine(AseSettings(calculator="no_such_engine.ase:X"))
    assert "pip" not in str(caught.value)  # a name that somebody made up may be one that somebody else has taken
    with pytest.raises(EngineSetupError, match=r"'gpaw\.no_such'.*gpaw.install --python"):
        make_engine(AseSettings(calculator="gpaw.no_such:GPAW"))
    with pytest.raises(EngineSetupError, match=r"'ase.calculators.emt' has no 'Emt'"):
        make_engine(AseSettings(calculator="ase.calculators.emt:Emt"))
    with pytest.raises(EngineSetupError, match=r"allowed: 'package.module:Name'"):
        make_engine(AseSettings(calculator="EMT"))
    monkeypatch.setitem(sys.modules, "pyscf", None)
    with pytest.raises(EngineSetupError, match=r"pip install 'bayes-mlff\[pyscf\]'"):
        PyscfEngine(PyscfSettings())


def test_unsuitable_elements_arguments_and_moments_are_setup_errors():
    emt = AseSettings(calculator="ase.calculators.emt:EMT")
    with make_engine(emt) as engine, pytest.raises(EngineSetupError, match="No EMT-potential for Xe"):
        engine.label(from_ase(ase.Atoms("Xe2", [[0, 0, 0], [0, 0, 3]])))
    unusable = AseSettings(calculator="ase.calculators.singlepoint:SinglePointCalculator")
    with (
        make_engine(unusable) as engine,
        pytest.raises(EngineSetupError, match=r"engine\.arguments.*SinglePoint"),
    ):
        engine.check(copper())
    settings = AseSettings(calculator="ase.calculators.emt:EMT", initial_magmoms=(1.0,))
    with make_engine(settings) as engine, pytest.raises(ConfigError, match=r"initial_magmoms.*4 numbers"):
        engine.check(copper())
    with AseEngine(settings) as engine, pytest.raises(DataError, match="another engine"):
        engine.restore_state(b"x")


def test_settings_are_one_union_and_unknown_keys_are_refused():
    adapter = TypeAdapter(EngineSettings)
    assert adapter.validate_python({"name": "pyscf", "basis": "sto-3g"}) == PyscfSettings(basis="sto-3g")
    parsed = adapter.validate_json('{"name": "ase", "calculator": "a:B", "arguments": {"mode": {"name": "pw"}}}')
    assert parsed == AseSettings(calculator="a:B", arguments={"mode": {"name": "pw"}})
    assert hash(parsed) == hash(parsed.model_copy()) and hash(PyscfSettings()) == hash(PyscfSettings())
    for bad in ({"name": "pyscf", "bassis": "x"}, {"name": "vasp"}, {"name": "pyscf", "grid_level": 0}):
        with pytest.raises(ValidationError):
            adapter.validate_python(bad)


def test_the_hash_follows_what_changes_labels_and_nothing_else():
    def of(**settings):
        return make_engine(AseSettings(calculator="ase.calculators.lj:LennardJones", **settings)).settings_hash

    assert of() == of() == of(reuse_calculator=False) == of(min_distance_angstrom=0.1) == of(retries=())
    assert len({of(), of(arguments={"sigma": 2.0}), of(stress=True), of(subtract_net_force=True)}) == 4
    assert hash_settings("a", "1", {"x": 1, "y": 2}) == hash_settings("a", "1", {"y": 2, "x": 1})
    assert hash_settings("a", "1", {"x": 1}) != hash_settings("a", "2", {"x": 1})
    assert of().startswith("sha256:") and len(of()) == 71


def test_an_engine_is_an_ase_calculator_too(plant):
    structure = copper()
    atoms = ase.Atoms(structure.numbers, structure.positions, cell=structure.cell, pbc=True)
    reference = atoms.copy()
    reference.calc = EMT()
    with make_engine(AseSettings(calculator="ase.calculators.emt:EMT", stress=True)) as engine:
        atoms.calc = EngineCalculator(engine)
        assert atoms.get_potential_energy() == reference.get_potential_energy()
        np.testing.assert_array_equal(atoms.get_stress(), reference.get_stress())
    with make_engine(AseSettings(calculator="ase.calculators.emt:EMT")) as engine:
        atoms.calc = EngineCalculator(engine)
        with pytest.raises(PropertyNotImplementedError):
            atoms.get_stress()
    for behaviour, error in (("failed", CalculationFailed), ("setup", CalculatorSetupError)):
        plant(behaviour)
        with make_engine(FAULTY) as engine:
            atoms.calc = EngineCalculator(engine)
            with pytest.raises(error):
                atoms.get_forces()


def test_lennard_jones_of_a_dimer_is_the_textbook_formula():
    with make_engine(
        AseSettings(
            calculator="ase.calculators.lj:LennardJones",
            arguments={"sigma": 3.4, "epsilon": 0.01, "rc": 50.0},
        )
    ) as engine:
        label = engine.label(from_ase(ase.Atoms("Ar2", [[0, 0, 0], [0, 0, 4.0]]))).label
    x = (3.4 / 4.0) ** 6
    shift = 4 * 0.01 * ((3.4 / 50.0) ** 12 - (3.4 / 50.0) ** 6)
    assert label.energy == pytest.approx(4 * 0.01 * (x * x - x) - shift, rel=1e-12)
    assert label.forces[1, 2] == pytest.approx(4 * 0.01 * (12 * x * x - 6 * x) / 4.0, rel=1e-10)


def test_tight_binding_converges_or_says_so():
    pytest.importorskip("tblite", reason="needs the tblite extra")
    settings = AseSettings(
        calculator="tblite.ase:TBLite", arguments={"method": "GFN2-xTB", "verbosity": 0, "accuracy": 0.01}
    )
    rng, h = np.random.default_rng(5), 1e-3
    direction = rng.normal(size=(3, 3))
    structure = water()
    with make_engine(settings) as engine:
        here, up, down = (
            engine.label(structure._replace(positions=structure.positions + x * direction)).label for x in (0.0, h, -h)
        )
    assert abs((up.energy - down.energy) / (2 * h) + np.sum(here.forces * direction)) < 1e-3
    hopeless = settings.model_copy(update={"arguments": {**settings.arguments, "max_iterations": 1}})
    with make_engine(hopeless) as engine, pytest.raises(EngineFailedError, match="attempt 2 of 2"):
        engine.label(structure)
    rescued = hopeless.model_copy(update={"retries": ({"max_iterations": 250},)})
    with make_engine(rescued) as engine:
        result = engine.label(structure)
    assert result.attempts == 2 and abs(result.label.energy - here.energy) < 1e-5


# -- recipes of docs/engines.md ----------------------------------------------------------------------------------


def recipe(calculator: str) -> WorkerSettings:
    """Return the documented engine section with this calculator."""
    text = (ROOT / "docs" / "engines.md").read_text()
    sections = [yaml.safe_load(block)["engine"] for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    settings = [TypeAdapter(EngineSettings).validate_python(section) for section in sections]
    return next(s for s in settings if isinstance(s, WorkerSettings) and s.calculator == calculator)


def lanthanum_manganite(settings: WorkerSettings) -> ase.Atoms:
    """The built-in structure that the recipes are for, with their moments."""
    atoms = to_ase(systems.structure("lamno3", base=Path()))
    if settings.initial_magmoms is not None:
        atoms.set_initial_magnetic_moments(settings.initial_magmoms)
    return atoms


def test_the_documented_moments_are_a_type_antiferromagnetic():
    for calculator in ("ase.calculators.vasp:Vasp", "ase.calculators.espresso:Espresso"):
        settings = recipe(calculator)
        expected = moments_of_elements({"Mn": 4.0}, "A-AFM", from_ase(lanthanum_manganite(settings)))
        assert settings.initial_magmoms == expected


def test_the_vasp_recipe_writes_its_input(tmp_path, monkeypatch):
    settings = recipe("ase.calculators.vasp:Vasp")
    for name in ("La", "Mn_pv", "O"):
        folder = tmp_path / "potpaw_PBE" / name
        folder.mkdir(parents=True)
        (folder / "POTCAR").write_text(f"PAW_PBE {name}\n")
    monkeypatch.setenv("VASP_PP_PATH", str(tmp_path))
    calculator = Vasp(directory=str(tmp_path), **settings.arguments)
    calculator.write_input(lanthanum_manganite(settings))
    incar = dict(re.findall(r"^\s*(\w+) = (.*?)\s*$", (tmp_path / "INCAR").read_text(), re.MULTILINE))
    assert incar["ENCUT"].startswith("500") and incar["ISPIN"] == "2" and incar["LDAU"] == ".TRUE."
    assert incar["LDAUL"].split() == ["-1", "2", "-1"] and incar["LDAUU"].split() == ["0.000", "4.000", "0.000"]
    assert incar["MAGMOM"].split() == ["4*0.0000", "1*4.0000", "2*-4.0000", "1*4.0000", "12*0.0000"]
    assert incar["GGA"] == "PE" and incar["ISYM"] == "0" and incar["NELM"] == "120"
    assert (tmp_path / "POTCAR").read_text().split() == ["PAW_PBE", "La", "PAW_PBE", "Mn_pv", "PAW_PBE", "O"]
    assert "4 4 4" in (tmp_path / "KPOINTS").read_text()
    for text, unconverged in (("x\n--- aborting loop because EDIFF is reached ---\n", False), ("x\nstopped\n", True)):
        assert bool(re.search(settings.unconverged_pattern, text)) == unconverged


def test_the_espresso_recipe_writes_its_input(tmp_path):
    settings = recipe("ase.calculators.espresso:Espresso")
    profile = EspressoProfile(command="pw.x", pseudo_dir=str(tmp_path))
    for element, valence in (("La", 11), ("Mn", 15), ("O", 6)):
        (tmp_path / f"{element}.UPF").write_text(f'<UPF>\n<PP_HEADER z_valence="{valence}.0"/>\n</UPF>\n')
    calculator = Espresso(profile=profile, directory=str(tmp_path), **settings.arguments)
    calculator.write_inputfiles(lanthanum_manganite(settings), ["energy", "forces", "stress"])
    text = (tmp_path / "espresso.pwi").read_text()
    values = dict(re.findall(r"^\s+([\w()]+)\s+= (.*)$", text, re.MULTILINE))
    assert abs(float(values["ecutwfc"]) * Rydberg - 500.0) < 0.1 and values["nspin"] == "2"
    assert values["tprnfor"] == ".true." and values["tstress"] == ".true."
    species = re.findall(r"^(La|Mn\d?|O)\s+[\d.]+ (\w+\.UPF)", text, re.MULTILINE)
    names = [name for name, _ in species]
    up, down = (float(values[f"starting_magnetization({names.index(name) + 1})"]) for name in ("Mn", "Mn1"))
    assert up == -down == 4.0 and not settings.carry_moments and len(names) == 4
    assert re.findall(r"^(Mn1?)\s", text.partition("ATOMIC_POSITIONS")[2], re.MULTILINE) == ["Mn", "Mn1", "Mn1", "Mn"]
    assert re.search(r"HUBBARD \(ortho-atomic\)\nU Mn-3d 4.0\nU Mn1-3d 4.0", text)


def test_the_cp2k_recipe_writes_its_input():
    settings = recipe("ase.calculators.cp2k:CP2K")
    calculator = CP2K.__new__(CP2K)  # to construct one would start the program
    calculator.label, calculator.atoms = "cp2k", lanthanum_manganite(settings)
    calculator._shell = types.SimpleNamespace(version=7.0, close=lambda: None)
    calculator.parameters = Parameters(CP2K.default_parameters | settings.arguments)
    text = calculator._generate_input()
    assert "UNRESTRICTED_KOHN_SHAM ON" in text and "&PBE" in text and "MULTIPLICITY 17" in text
    manganese = text.partition("&KIND Mn")[2].partition("&END KIND")[0]
    assert "U_MINUS_J [eV] 4.0" in manganese and "L 2" in manganese and "MAGNETIZATION 4.0" in manganese
    assert float(re.search(r"CUTOFF \[eV\] (\S+)", text).group(1)) == pytest.approx(500 * Rydberg, rel=1e-4)
    assert text.count("POTENTIAL GTH-PBE") == 3 and text.count("BASIS_SET_FILE_NAME") == 2
    assert text.partition("&COORD")[2].partition("&END COORD")[0].count("Mn ") == 4
    assert re.search(settings.unconverged_pattern, "  *** SCF run NOT converged ***")
