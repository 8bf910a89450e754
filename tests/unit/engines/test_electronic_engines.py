"""Charge, spin and moments of a structure reach every engine, or are refused by name; what is assumed is said."""

import io
import re
import textwrap

import ase
import ase.io
import numpy as np
import pytest

from bayes_mlff.core.errors import ConfigError
from bayes_mlff.data.structure import ElectronicState, Structure, from_ase
from bayes_mlff.engines.ase_engine import AseSettings
from bayes_mlff.engines.calculator import EngineCalculator
from bayes_mlff.engines.chgnet import ChgnetEngine, ChgnetSettings
from bayes_mlff.engines.electrons import tell
from bayes_mlff.engines.gpaw.engine import GpawEngine
from bayes_mlff.engines.gpaw.settings import GpawSettings
from bayes_mlff.engines.pyscf.engine import PyscfEngine
from bayes_mlff.engines.pyscf.molecule import PyscfSettings
from bayes_mlff.engines.registry import make_engine
from bayes_mlff.engines.worker.engine import WorkerSettings

FLAT = {"input_data": {"tot_charge": 1}}

SEEING = textwrap.dedent("""
    import json
    import numpy as np
    from ase.calculators.calculator import Calculator, all_changes

    class Seeing(Calculator):
        implemented_properties = ["energy", "forces", "stress", "magmoms"]
        default_parameters = {"charge": None, "multiplicity": None}

        def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
            super().calculate(atoms, properties, system_changes)
            seen = {"parameters": dict(self.parameters), "info": atoms.info, "constraints": len(atoms.constraints)}
            seen["moments"] = atoms.get_initial_magnetic_moments().tolist()
            seen["charges"] = atoms.get_initial_charges().tolist()
            seen["tags"] = atoms.get_tags().tolist()
            with open("seen.json", "w") as file:
                json.dump(seen, file)
            r = atoms.positions
            self.results = {"energy": 0.5 * np.sum(r * r), "forces": -r, "stress": np.zeros(6)}
            self.results["magmoms"] = 0.9 * atoms.get_initial_magnetic_moments()

    class Blind(Seeing):
        default_parameters = {}
""")


def nh4(**state) -> Structure:
    h = 0.59 * np.array([[1, 1, 1], [-1, -1, 1], [-1, 1, -1], [1, -1, -1]])
    atoms = ase.Atoms("NH4", [[0, 0, 0], *h.tolist()])
    return from_ase(atoms)._replace(electronic=ElectronicState(**state))


def o2(**state) -> Structure:
    return from_ase(ase.Atoms("O2", [[0, 0, 0], [0, 0, 1.21]]))._replace(electronic=ElectronicState(**state))


def n2(**state) -> Structure:
    """N2+ with opposite moments, in a box so that every engine takes it."""
    atoms = ase.Atoms("N2", [[0, 0, 0.56499], [0, 0, -0.56499]], cell=[8, 8, 8], pbc=True)
    said = {"charge": 1, "moments": np.array([1.5, -1.5]), "charges": np.array([1.0, 0.0])} | state
    return from_ase(atoms)._replace(electronic=ElectronicState(**said))


def tblite(**changes) -> AseSettings:
    pytest.importorskip("tblite", reason="needs the tblite extra")
    return AseSettings(
        calculator="tblite.ase:TBLite", arguments={"method": "GFN2-xTB", "verbosity": 0} | changes.pop("arguments", {})
    ).model_copy(update=changes)


def energy_of(settings, structure: Structure) -> float:
    with make_engine(settings) as engine:
        engine.check(structure)
        result = engine.label(structure)
    assert result.structure.electronic == structure.electronic
    return result.label.energy


@pytest.mark.parametrize(
    ("structure", "arguments", "energy", "line"),
    [
        (nh4(charge=1, multiplicity=1), {}, -122.307, "charge 1 (structure), multiplicity 1 (structure)"),
        (nh4(), {}, -126.293, "assumed: charge 0, multiplicity 2, the lowest of 11 electrons"),
        (nh4(), {"charge": 1}, -122.307, "charge 1 (engine.arguments.charge); assumed: multiplicity 1"),
        (nh4(charge=1), {"charge": 1}, -122.307, "charge 1 (structure); assumed: multiplicity 1"),
        (nh4(charges=np.array([1.0, 0, 0, 0, 0])), {}, -122.307, "charge 1 (sum of the initial charges)"),
        (o2(multiplicity=3), {}, -215.082, "multiplicity 3 (structure); assumed: charge 0"),
        (o2(moments=np.ones(2)), {}, -215.082, "multiplicity 3 (sum of the initial moments)"),
        (o2(), {"multiplicity": 3}, -215.082, "multiplicity 3 (engine.arguments.multiplicity)"),
        (o2(), {}, -215.154, "assumed: charge 0, multiplicity 1, the lowest of 16 electrons"),
    ],
)
def test_tight_binding_has_the_charge_and_the_spin_of_the_structure(structure, arguments, energy, line):
    settings = tblite(arguments=arguments)
    assert abs(energy_of(settings, structure) - energy) < 1e-3
    with make_engine(settings) as engine:
        assert any(line in said for said in engine.assumptions(structure)), engine.assumptions(structure)


def test_the_same_in_a_process_of_its_own(tmp_path):
    settings = WorkerSettings.model_validate(tblite().model_dump(exclude={"name"}))
    with make_engine(settings, tmp_path) as engine:
        for structure, energy in ((nh4(charge=1, multiplicity=1), -122.307), (nh4(), -126.293)):
            engine.check(structure)
            assert abs(engine.label(structure).label.energy - energy) < 1e-3


def test_pyscf_has_the_charge_and_the_spin_of_the_structure():
    settings = PyscfSettings(xc="pbe", basis="sto-3g", density_fit=False)
    assert abs(energy_of(settings, o2(multiplicity=3)) - -4031.051) < 0.01
    assert abs(energy_of(settings, o2()) - -4029.158) < 0.01
    with make_engine(settings) as engine:
        assert engine.assumptions(o2()) == ("assumed: charge 0, multiplicity 1, the lowest of 16 electrons",)
    for changes, structure, said in (
        ({"spin": 0}, o2(multiplicity=3), r"engine\.spin: got 0; allowed: 2, for multiplicity 3 of the structure"),
        ({"charge": 0}, o2(charge=1), r"engine\.charge: got 0; allowed: 1, as structure says"),
        ({}, o2(multiplicity=2), r"structure\.multiplicity: got 2; allowed: an odd multiplicity"),
        ({"spin": 1}, o2(), r"engine\.spin: got 1; allowed: an even number"),
        ({}, o2(charge=17), r"structure\.charge: got 17"),
    ):
        with PyscfEngine(settings.model_copy(update=changes)) as engine, pytest.raises(ConfigError, match=said):
            engine.check(structure)
    with PyscfEngine(settings.model_copy(update={"charge": 1, "spin": 1})) as engine:
        engine.check(o2(charge=1, multiplicity=2))  # both say the same


def test_pyscf_starts_from_moments_that_cancel_and_its_state_knows_whose_density_it_is():
    """H2 pulled apart: restricted it is far too high, from opposite spins two atoms."""
    settings = PyscfSettings(xc="pbe", basis="sto-3g", density_fit=False)
    apart = from_ase(ase.Atoms("H2", [[0, 0, 0], [0, 0, 3.0]]))
    broken = apart._replace(electronic=ElectronicState(moments=np.array([1.0, -1.0])))
    atom = from_ase(ase.Atoms("H"))
    two_atoms = 2.0 * energy_of(settings, atom)
    assert energy_of(settings, apart) - two_atoms > 1.0
    with PyscfEngine(settings) as engine:
        first = engine.label(broken)
        assert abs(first.label.energy - two_atoms) < 0.05
        assert "initial moments" in engine.assumptions(broken)[1]
        state, h2_plus = engine.save_state(), broken._replace(electronic=ElectronicState(charge=1))
    with PyscfEngine(settings) as engine:
        engine.restore_state(state)
        again = engine.label(broken)
        assert "previous density" in again.diagnostics[-1]
        assert again.label.energy == pytest.approx(first.label.energy, abs=1e-6)
        engine.restore_state(state)
        assert "fresh start" in engine.label(h2_plus).diagnostics[-1]


@pytest.fixture
def seeing(tmp_path, monkeypatch):
    """Two calculators that write down what they see."""
    (tmp_path / "run").mkdir()
    (tmp_path / "seeing_calculators.py").write_text(SEEING)
    return tmp_path


@pytest.mark.parametrize("kind", [AseSettings, WorkerSettings])
def test_everything_that_is_stated_reaches_the_calculator(seeing, kind):
    structure = n2(tags=np.array([3, 0]), info={"solvent": "water"})
    settings = kind(calculator="seeing_calculators:Seeing")
    with make_engine(settings, seeing / "run", base=seeing) as engine:
        engine.check(structure)
        engine.label(structure)
    seen = _seen(seeing)
    assert seen["moments"] == [1.5, -1.5] and seen["charges"] == [1.0, 0.0] and seen["tags"] == [3, 0]
    assert seen["parameters"]["charge"] == 1 and seen["parameters"]["multiplicity"] == 2  # 13 electrons
    assert seen["info"] == {"solvent": "water", "charge": 1} and seen["constraints"] == 0


def _seen(folder) -> dict:
    import json

    return json.loads((folder / "run" / "engine" / "seen.json").read_text())


def test_moments_of_a_file_are_carried_from_label_to_label(seeing):
    settings = WorkerSettings(calculator="seeing_calculators:Seeing", reuse_calculator=False)
    with make_engine(settings, seeing / "run", base=seeing) as engine:
        engine.label(n2())
        moved = n2()._replace(positions=n2().positions * 1.01)
        engine.label(moved)
        assert _seen(seeing)["moments"] == pytest.approx([1.35, -1.35])
        state = engine.save_state()
    with make_engine(settings, seeing / "run", base=seeing) as engine:
        engine.restore_state(state)
        engine.label(n2())
        assert _seen(seeing)["moments"] == pytest.approx([1.35 * 0.9, -1.35 * 0.9])


@pytest.mark.parametrize("kind", [AseSettings, WorkerSettings])
def test_moments_of_configuration_and_file_must_not_contradict_each_other(seeing, kind):
    settings = kind(calculator="seeing_calculators:Seeing", initial_magmoms=(1.0, 1.0))
    with make_engine(settings, seeing / "run", base=seeing) as engine:
        with pytest.raises(ConfigError, match=r"engine\.initial_magmoms: got \[1\.0, 1\.0\]; .*\[1\.5, -1\.5\]"):
            engine.check(n2())
        engine.label(n2(moments=np.ones(2)))
        engine.label(n2(moments=None))
    assert _seen(seeing)["moments"] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("calculator", "structure", "said"),
    [
        (
            "ase.calculators.emt:EMT",
            nh4(charge=1),
            r"structure\.charge: got 1; allowed: 0 with ase\.calculators\.emt:EMT",
        ),
        ("ase.calculators.emt:EMT", o2(multiplicity=3), r"structure\.multiplicity: got 3; allowed: 1 with ase\.calc"),
        ("ase.calculators.emt:EMT", o2(multiplicity=2), r"structure\.multiplicity: got 2; allowed: an odd"),
        ("ase.calculators.emt:EMT", nh4(charges=np.ones(5) / 5), r"structure\.charge: got 1"),
        ("ase.calculators.emt:EMT", nh4(charges=np.ones(5) / 10), r"initial charges add up to 0\.5"),
        ("ase.calculators.emt:EMT", nh4(charge=1, charges=np.array([-1.0, 0, 0, 0, 0])), r"add up to -1"),
    ],
)
def test_what_a_calculator_cannot_be_told_is_refused_by_name(calculator, structure, said):
    with make_engine(AseSettings(calculator=calculator)) as engine, pytest.raises(ConfigError, match=said):
        engine.check(structure)


def test_a_neutral_molecule_in_its_lowest_state_is_nothing_to_be_told():
    with make_engine(AseSettings(calculator="ase.calculators.emt:EMT")) as engine:
        for structure in (o2(charge=0, multiplicity=1), nh4(), nh4(multiplicity=2)):
            engine.check(structure)
        assert engine.assumptions(nh4()) == ()
    with ChgnetEngine(ChgnetSettings()) as engine, pytest.raises(ConfigError, match=r"structure\.charge: got 1"):
        engine.check(nh4(charge=1))


def test_arguments_that_contradict_the_structure_are_refused():
    for arguments, structure, said in (
        ({"charge": 0}, nh4(charge=1), r"engine\.arguments\.charge: got 0; allowed: 1, as structure says"),
        ({"multiplicity": 1}, o2(multiplicity=3), r"engine\.arguments\.multiplicity: got 1; .*multiplicity 3"),
        ({"charge": 0.5}, nh4(), "a whole number"),
        ({"multiplicity": 2}, o2(), r"engine\.arguments\.multiplicity: got 2; allowed: an odd multiplicity"),
    ):
        with make_engine(tblite(arguments=arguments)) as engine, pytest.raises(ConfigError, match=said):
            engine.check(structure)
    with make_engine(tblite(retries=({"charge": 0},))) as engine, pytest.raises(ConfigError, match=r"charge: got 0"):
        engine.check(nh4(charge=1))


@pytest.mark.parametrize(
    ("calculator", "arguments", "structure", "expected"),
    [
        ("ase.calculators.orca:ORCA", {}, nh4(charge=1), {"charge": 1, "mult": 1}),
        ("ase.calculators.orca:ORCA", {}, nh4(), {"charge": 0, "mult": 2}),
        ("ase.calculators.gaussian.Gaussian", {}, o2(multiplicity=3), {"charge": 0, "mult": 3}),
        ("ase.calculators.qchem:QChem", {}, o2(multiplicity=3), {"charge": 0, "multiplicity": 3}),
        ("ase.calculators.psi4:Psi4", {}, o2(multiplicity=3), {"charge": 0, "multiplicity": 3, "reference": "uhf"}),
        ("ase.calculators.turbomole:Turbomole", {}, nh4(charge=1), {"total charge": 1, "multiplicity": 1}),
        ("ase.calculators.cp2k:CP2K", {}, o2(multiplicity=3), {"multiplicity": 3, "uks": True}),
        ("ase.calculators.cp2k:CP2K", {}, o2(), {}),
        ("ase.calculators.nwchem:NWChem", {}, nh4(charge=1), {"charge": 1}),
        ("ase.calculators.vasp:Vasp", {"ispin": 2}, n2(), {"ispin": 2, "charge": 1}),
        ("ase.calculators.vasp:Vasp", {}, o2(multiplicity=3), {"nupdown": 2, "ispin": 2}),
        (
            "ase.calculators.espresso:Espresso",
            {"input_data": {"SYSTEM": {"ecutwfc": 30}}},
            o2(charge=-1, multiplicity=2),
            {"input_data": {"SYSTEM": {"ecutwfc": 30, "tot_charge": -1, "tot_magnetization": 1, "nspin": 2}}},
        ),
        (
            "ase.calculators.espresso:Espresso",
            {"input_data": {"tot_charge": 1}},
            nh4(charge=1),
            {"input_data": {"tot_charge": 1}},
        ),
        ("some.where:Calculator", {"charge": 1}, nh4(charge=1), {"charge": 1}),
    ],
)
def test_known_calculators_are_told_by_their_own_keywords(calculator, arguments, structure, expected):
    told = tell(structure, calculator, arguments, moments=structure.electronic.moments, reads=(), names={})
    assert told.arguments == expected


@pytest.mark.parametrize(
    ("calculator", "arguments", "said"),
    [
        ("ase.calculators.orca:ORCA", {"mult": 1}, r"arguments\.mult: got 1"),
        ("ase.calculators.vasp:Vasp", {"nupdown": 0}, r"arguments\.nupdown: got 1"),
        ("ase.calculators.vasp:Vasp", {"ispin": 1}, r"arguments\.ispin: got 1"),
        ("some.where:Calculator", {"multiplicity": 3, "spin": 5}, r"arguments\.spin: got 5"),
        ("ase.calculators.nwchem:NWChem", {"dft": {"mult": 1}}, r"arguments\.dft\.mult: got 1"),
        ("ase.calculators.psi4:Psi4", {"charge": 1}, r"arguments\.charge: got 1; allowed: 0"),
    ],
)
def test_keywords_of_the_method_that_contradict_the_structure_are_refused(calculator, arguments, said):
    with pytest.raises(ConfigError, match=said):
        tell(o2(charge=0, multiplicity=3), calculator, arguments, moments=None, reads=(), names={})


def test_what_is_told_is_what_ase_writes():
    """The files of programs that are not here, from arguments and atoms as the engine would pass them."""
    from ase.calculators.mopac import MOPAC
    from ase.io.gaussian import write_gaussian_in
    from ase.io.nwchem.nwwriter import write_nwchem_in
    from ase.io.orca import write_orca

    def told(path, structure):
        found = tell(structure, path, {}, moments=structure.electronic.moments, reads=(), names={})
        atoms = ase.Atoms(structure.numbers, structure.positions)
        atoms.set_initial_magnetic_moments(found.moments)
        return found, atoms

    found, atoms = told("ase.calculators.orca:ORCA", nh4(charge=1, multiplicity=1))
    text = io.StringIO()
    write_orca(text, atoms, {"orcasimpleinput": "", "orcablocks": ""} | found.arguments)
    assert "*xyz 1 1" in text.getvalue()
    found, atoms = told("ase.calculators.gaussian:Gaussian", o2(moments=np.ones(2)))
    text = io.StringIO()
    write_gaussian_in(text, atoms, properties=["energy"], method="pbe", basis="6-31g", **found.arguments)
    assert re.search(r"^0 3$", text.getvalue(), re.MULTILINE)
    found, atoms = told("ase.calculators.nwchem:NWChem", o2(charge=-1, multiplicity=2))
    text = io.StringIO()
    write_nwchem_in(text, atoms, properties=["energy"], theory="dft", **found.arguments)
    assert "charge -1" in text.getvalue() and re.search(r"mult\s+2", text.getvalue())
    found, atoms = told("ase.calculators.mopac:MOPAC", o2(multiplicity=3))
    assert sum(found.moments) == 2.0 and "shared out" in found.remarks[-1]
    calculator = MOPAC.__new__(MOPAC)
    calculator.parameters = {"method": "PM7", "task": "1SCF", "relscf": None, "charge": None}
    assert found.arguments == {}


def test_the_moments_of_psi4_are_left_out_and_that_is_said():
    told = tell(n2(), "ase.calculators.psi4:Psi4", {}, moments=(1.5, -1.5), reads=(), names={})
    assert told.moments is None and "not used by ase.calculators.psi4:Psi4" in told.remarks[-1]
    assert told.arguments == {"charge": 1, "multiplicity": 2, "reference": "uhf"}


@pytest.mark.parametrize("reads", [("info",), ("initial",), ("arguments",)])
def test_a_calculator_that_reads_by_itself_has_everything_where_it_reads(seeing, reads):
    settings = AseSettings(calculator="seeing_calculators:Blind", reads=reads)
    structure = o2(charge=-1, multiplicity=2)
    with make_engine(settings.model_copy(update={"reads": ()}), seeing / "run", base=seeing) as engine:
        with pytest.raises(ConfigError, match=r"structure\.charge: got -1; .*engine\.reads: \[info\]"):
            engine.check(structure)
        unread = engine.settings_hash
    with make_engine(settings, seeing / "run", base=seeing) as engine:
        engine.label(structure)
        assert engine.settings_hash != unread
    seen = _seen(seeing)
    assert seen["info"] == {"charge": -1, "spin": 2, "multiplicity": 2}
    assert sum(seen["charges"]) == (-1.0 if reads == ("initial",) else 0.0)
    assert sum(seen["moments"]) == (1.0 if reads == ("initial",) else 0.0)
    with make_engine(settings, seeing / "run", base=seeing) as engine:
        engine.label(o2())
    seen = _seen(seeing)
    assert seen["info"] == ({"charge": 0, "spin": 1, "multiplicity": 1} if reads == ("info",) else {})


# -- GPAW without GPAW -------------------------------------------------------------------------------------------


@pytest.fixture
def gpaw(seeing):
    (seeing / "gpaw.py").write_text("from seeing_calculators import Seeing\nclass GPAW(Seeing):\n    pass\n")

    def engine(**changes) -> GpawEngine:
        return GpawEngine(GpawSettings(environment={"PYTHONPATH": str(seeing)}, **changes), seeing / "run")

    return engine


def test_gpaw_sees_charge_and_moments_of_the_structure(gpaw, seeing):
    with gpaw() as engine:
        engine.label(n2())
        assert any("sum 0 μB, largest 1.5 μB" in line for line in engine.assumptions(n2()))
    seen = _seen(seeing)
    assert seen["moments"] == [1.5, -1.5] and seen["charges"] == [1.0, 0.0] and seen["parameters"]["charge"] == 1
    assert "fixmagmom" not in seen["parameters"]["occupations"]  # nobody states a multiplicity
    with gpaw() as engine:
        engine.label(n2(moments=np.array([1.5, -0.5]), multiplicity=2))
    assert _seen(seeing)["parameters"]["occupations"] == {"fixmagmom": True, "name": "fermi-dirac", "width": 0.05}


def test_moments_of_the_settings_that_cancel_are_told_as_well():
    silent = n2(moments=None)
    some = tell(silent, "gpaw:GPAW", {}, moments=(1.5, -1.5), reads=(), names={}).remarks
    none = tell(silent, "gpaw:GPAW", {}, moments=None, reads=(), names={}).remarks
    assert "from the initial moments" in some[0] and some[1] == "initial moments: sum 0 μB, largest 1.5 μB"
    assert len(none) == 1 and "as the calculator has it without moments" in none[0]


def test_gpaw_refuses_what_contradicts_the_structure(gpaw):
    with gpaw(magmoms={"N": 1.0}) as engine, pytest.raises(ConfigError, match=r"engine\.magmoms: got \[1\.0, 1\.0\]"):
        engine.label(n2())
    with gpaw() as engine, pytest.raises(ConfigError, match=r"structure\.multiplicity: got 4; .*give moments .* to 3"):
        engine.label(n2(multiplicity=4, moments=None))
    with gpaw() as engine, pytest.raises(ConfigError, match=r"structure\.multiplicity: got 4; .*theirs is 0"):
        engine.label(n2(multiplicity=4))


def test_the_calculator_of_an_engine_notices_another_charge():
    """ASE compares neither remarks nor tags, and would serve the energy of the ion for the molecule."""
    atoms = ase.Atoms(nh4().numbers, nh4().positions)
    with make_engine(tblite()) as engine:
        atoms.calc = EngineCalculator(engine)
        neutral = atoms.get_potential_energy()
        atoms.info["charge"] = 1
        assert abs(atoms.get_potential_energy() - -122.307) < 1e-3 and abs(neutral - -126.293) < 1e-3
