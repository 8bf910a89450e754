"""Calculators by import path, also beside the configuration or from a dictionary; whatever goes wrong is named."""

import importlib
import sys
import textwrap

import ase
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from bayes_mlff.core.errors import ConfigError, EngineSetupError
from bayes_mlff.data.structure import ElectronicState, Structure, from_ase
from bayes_mlff.engines import factories
from bayes_mlff.engines.ase_engine import AseSettings
from bayes_mlff.engines.registry import make_engine
from bayes_mlff.engines.worker.engine import WorkerSettings

MODULE = textwrap.dedent("""
    import sys
    from ase.calculators.emt import EMT

    NUMBER = 3
    READY = EMT()

    def make(shift=0.0):
        calculator = EMT()
        calculator.shift = shift
        return calculator

    def needs(something):
        return EMT()

    def nothing():
        EMT()

    def gives_class():
        return EMT

    def gives_text():
        return "EMT"

    def own_error():
        class Strange(Exception):
            pass
        raise Strange("a strange failure")

    def assertion():
        assert 1 == 2, "an assertion"

    def leaves():
        sys.exit("leaving")

    class Smeared(EMT):
        implemented_properties = ["energy", "forces"]

        def calculate(self, *args, **kwargs):
            super().calculate(*args, **kwargs)
            self.results["free_energy"] = self.results["energy"]
            self.results["energy"] = self.results["energy"] + 1.0
""")

KINDS = pytest.mark.parametrize("kind", [AseSettings, WorkerSettings])
LJ = {"sigma": 2.3, "epsilon": 0.1, "rc": 6.0}


def copper(seed: int = 0) -> Structure:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=seed)
    return from_ase(atoms)


def as_atoms(structure: Structure, calculator) -> ase.Atoms:
    return ase.Atoms(
        structure.numbers, structure.positions, cell=structure.cell, pbc=structure.pbc, calculator=calculator
    )


@pytest.fixture
def base(tmp_path):
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "my_calc.py").write_text(MODULE)
    return folder


@KINDS
def test_a_module_beside_the_configuration_is_found_from_anywhere(base, kind, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with make_engine(kind(calculator="my_calc:make", arguments={"shift": 1.0}), base=base) as engine:
        engine.check(copper())
        label = engine.label(copper()).label
        before = engine.settings_hash
    atoms = as_atoms(copper(), EMT())
    assert label.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
    with make_engine(kind(calculator="my_calc.make"), base=base) as engine:
        engine.check(copper())
    (base / "my_calc.py").write_text(MODULE + "\n# another method\n")
    sys.modules.pop("my_calc", None)
    with make_engine(kind(calculator="my_calc:make", arguments={"shift": 1.0}), base=base) as engine:
        assert engine.settings_hash != before


def test_each_configuration_has_its_own_module_and_none_hides_an_installed_one(base, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "my_calc.py").write_text(MODULE.replace("def make(", "def second("))
    with make_engine(AseSettings(calculator="my_calc:make"), base=base) as engine:
        engine.check(copper())
    with make_engine(AseSettings(calculator="my_calc:second"), base=other) as engine:
        engine.check(copper())
    (base / "ase.py").write_text("raise SystemExit('hidden')")
    with make_engine(AseSettings(calculator="ase.calculators.emt:EMT"), base=base) as engine:
        engine.check(copper())
    (base / "colorsys.py").write_text("def make():\n    return 1\n")
    said = rf"module 'colorsys' has no 'make' .*{base}/colorsys\.py beside the configuration has the name of"
    with pytest.raises(EngineSetupError, match=said):
        make_engine(AseSettings(calculator="colorsys:make"), base=base)


@pytest.mark.parametrize("place", ["env/site-packages", "."])
def test_modules_stay_that_lie_in_the_folder_of_a_configuration_and_are_not_its_own(place, base, tmp_path, monkeypatch):
    """An environment in the folder of the project, or a package that is developed there and was loaded before."""
    installed = tmp_path / "project" / place
    installed.mkdir(parents=True)
    (installed / "installed_calc.py").write_text(MODULE)
    monkeypatch.syspath_prepend(installed)
    loaded = [] if place != "." else [importlib.import_module("installed_calc")]
    for folder in (tmp_path / "project", base):
        with make_engine(AseSettings(calculator="installed_calc:make"), base=folder) as engine:
            engine.check(copper())
        loaded.append(sys.modules["installed_calc"])
    del sys.modules["installed_calc"]
    assert all(each is loaded[0] for each in loaded)


@KINDS
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("my_calc:needs", r"engine\.arguments: my_calc:needs refuses \{\}: TypeError: .*something"),
        ("my_calc:nothing", r"engine\.calculator: my_calc:nothing gave None"),
        ("my_calc:gives_class", r"gave the class EMT; allowed: one that returns a calculator"),
        ("my_calc:gives_text", r"gave a str, which is no ASE calculator: it has no get_property"),
        ("my_calc:own_error", r"Strange: a strange failure \(.*my_calc\.py, line \d+\)"),
        ("my_calc:assertion", "AssertionError: an assertion"),
        ("my_calc:leaves", r"engine\.calculator: my_calc:leaves ends the program .*SystemExit: leaving"),
        ("my_calc:NUMBER", r"got 'my_calc:NUMBER', which is of type int"),
        ("my_calc:READY", r"which is of type EMT; allowed: a class or function"),
        ("ase.calculators.emt", r"which is a module"),
        ("my_calc", r"got 'my_calc'; allowed: 'package\.module:Name'"),
        ("my_calc.py", r"a file beside the configuration is named as 'my_calc:Name'"),
        ("./my_calc.py:make", r"named as 'my_calc:make'"),
        ("my_calc:mkae", r"module 'my_calc' has no 'mkae'"),
        ("my_clac:make", r"cannot import module 'my_clac': \S+ has none of this name, and there is none beside"),
        ("my calc:make", r"allowed: 'package\.module:Name'"),
        ("broken:make", r"module 'broken' fails when it is imported \(SyntaxError"),
        ("leaving:make", r"module 'leaving' fails when it is imported \(SystemExit: at once"),
        ("needing:make", r"module 'needing' needs 'no_such_package', which \S+ does not have"),
    ],
)
def test_a_factory_that_fails_says_where_and_why(base, kind, name, said):
    (base / "broken.py").write_text("def make(:\n")
    (base / "leaving.py").write_text("raise SystemExit('at once')\n")
    (base / "needing.py").write_text("import no_such_package\n")
    with pytest.raises(EngineSetupError, match=said) as caught, make_engine(kind(calculator=name), base=base) as engine:
        engine.check(copper())
    assert "pip install" not in str(caught.value)


SUM = {
    "calculator": "ase.calculators.mixing:SumCalculator",
    "arguments": {
        "calcs": [
            {"calculator": "ase.calculators.emt:EMT"},
            {"calculator": "ase.calculators.lj:LennardJones", "arguments": LJ},
        ]
    },
    "stress": True,
}


@KINDS
def test_a_calculator_from_a_dictionary(kind):
    parts = [as_atoms(copper(), calculator) for calculator in (EMT(), LennardJones(**LJ))]
    with make_engine(kind.model_validate(SUM)) as engine:
        engine.check(copper())
        for _ in range(2):
            label = engine.label(copper()).label
            assert label.energy == pytest.approx(sum(atoms.get_potential_energy() for atoms in parts), abs=1e-9)
        np.testing.assert_allclose(label.forces, sum(atoms.get_forces() for atoms in parts), atol=1e-9)
        np.testing.assert_allclose(label.stress, sum(atoms.get_stress(voigt=False) for atoms in parts), atol=1e-9)


@KINDS
def test_errors_of_inner_calculators_name_the_dotted_place(kind):
    for inner, said in (
        ({"calculator": "no_such_d3:D3"}, r"engine\.arguments\.calcs\.1\.calculator: got 'no_such_d3:D3'"),
        (
            {"calculator": "ase.calculators.lj:LennardJones", "arguments": {"calc": {"calculator": "a"}}},
            r"engine\.arguments\.calcs\.1\.arguments\.calc\.calculator: got 'a'",
        ),
        (
            {"calculator": "ase.calculators.singlepoint:SinglePointCalculator"},
            r"engine\.arguments\.calcs\.1\.arguments: .* refuses",
        ),
    ):
        calcs = [{"calculator": "ase.calculators.emt:EMT"}, inner]
        settings = kind(calculator=SUM["calculator"], arguments={"calcs": calcs})
        with pytest.raises(EngineSetupError, match=said), make_engine(settings) as engine:
            engine.check(copper())


def test_inner_calculators_are_told_the_charge_or_refuse_it():
    pytest.importorskip("tblite", reason="needs the tblite extra")
    part = {"calculator": "tblite.ase:TBLite", "arguments": {"method": "GFN2-xTB", "verbosity": 0}}
    settings = AseSettings(
        calculator="ase.calculators.mixing:LinearCombinationCalculator",
        arguments={"calcs": [part, part], "weights": [0.5, 0.5]},
    )
    h = 0.59 * np.array([[1, 1, 1], [-1, -1, 1], [-1, 1, -1], [1, -1, -1]])
    nh4 = from_ase(ase.Atoms("NH4", [[0, 0, 0], *h.tolist()]))
    nh4 = nh4._replace(electronic=ElectronicState(charge=1))
    with make_engine(settings) as engine:
        assert abs(engine.label(nh4).label.energy - -122.307) < 1e-3
    said = r"structure\.charge: got 1; .*EMT \(engine\.arguments\.calcs\.0\)"
    with make_engine(AseSettings.model_validate(SUM)) as engine, pytest.raises(ConfigError, match=said):
        engine.check(nh4)


@KINDS
def test_the_energy_is_the_one_that_the_forces_belong_to_also_within_a_sum(base, kind):
    right = as_atoms(copper(), EMT()).get_potential_energy()
    smeared = {"calculator": "my_calc:Smeared"}
    lj = as_atoms(copper(), LennardJones(**LJ)).get_potential_energy()
    calcs = [smeared, {"calculator": "ase.calculators.lj:LennardJones", "arguments": LJ}]
    weighted = {"calcs": calcs, "weights": [2.0, 1.0]}
    for settings, expected in (
        ({"calculator": "my_calc:Smeared"}, right),
        ({"calculator": SUM["calculator"], "arguments": {"calcs": calcs}}, right + lj),
        (
            {"calculator": "ase.calculators.mixing:LinearCombinationCalculator", "arguments": weighted},
            2.0 * right + lj,
        ),
    ):
        with make_engine(kind.model_validate(settings), base=base) as engine:
            result = engine.label(copper())
        assert result.label.energy == pytest.approx(expected, abs=1e-8)
        assert "energy is the calculator's free_energy" in result.diagnostics


def test_mappings_that_are_no_calculators_stay_as_they_are():
    plain = {"mode": {"name": "pw"}, "calculator": "fast", "both": {"calculator": "a:B", "other": 1}}
    assert list(factories.descriptions(plain, "engine.arguments")) == []
