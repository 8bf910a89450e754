"""The recipes of the documentation write the input files of VASP, Quantum ESPRESSO and CP2K."""

import re
import types
from pathlib import Path

import ase
import pytest
import yaml
from ase.calculators.calculator import (
    Parameters,
)
from ase.calculators.cp2k import CP2K
from ase.calculators.espresso import Espresso, EspressoProfile
from ase.calculators.vasp import Vasp
from ase.units import Rydberg
from pydantic import TypeAdapter

from bayes_mlff.data.structure import from_ase, to_ase
from bayes_mlff.engines.moments import moments_of_elements
from bayes_mlff.engines.registry import EngineSettings
from bayes_mlff.engines.worker.engine import WorkerSettings
from bayes_mlff.otf import systems
from tests.support.places import ROOT


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
