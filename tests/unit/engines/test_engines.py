"""Engines on cheap calculators: nothing that an engine says is believed without a check."""

import sys
import types

import ase
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import (
    CalculationFailed,
    Calculator,
    CalculatorSetupError,
    PropertyNotImplementedError,
)
from ase.calculators.emt import EMT
from pydantic import TypeAdapter, ValidationError

from bayes_mlff.core.errors import (
    ConfigError,
    DataError,
    EngineFailedError,
    EngineRetryError,
    EngineSetupError,
)
from bayes_mlff.data.labels import Label
from bayes_mlff.data.structure import Structure, from_ase
from bayes_mlff.engines.ase_engine import AseEngine, AseSettings
from bayes_mlff.engines.calculator import EngineCalculator
from bayes_mlff.engines.engine import Engine, EngineResult, hash_settings, retry
from bayes_mlff.engines.pyscf.engine import PyscfEngine, PyscfSettings
from bayes_mlff.engines.registry import EngineSettings, make_engine
from bayes_mlff.engines.verified import VerifiedEngine, verified_label
from tests.support.faulty_calculators import planted, water


def copper(seed: int = 0) -> Structure:
    atoms = bulk("Cu", cubic=True)
    atoms.set_cell(atoms.cell.array + 0.1 * np.tril(np.random.default_rng(9).normal(size=(3, 3))), scale_atoms=True)
    atoms.rattle(0.1, seed=seed)
    return from_ase(atoms)


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
        said = str(caught.value)
        assert "KeyError: 'a bug of the calculator'" in said and "faulty_calculators.py, line" in said
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
