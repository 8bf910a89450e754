"""What is said at the start of a run and by `check`: the preset, and levels of theory that differ."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from bayes_mlff.api import introduction
from bayes_mlff.models import architectures, registry
from bayes_mlff.models.origin import Origin
from bayes_mlff.otf import config, problem, systems


@pytest.fixture(scope="module")
def introduce():
    """What is printed for settings of a run of ethanol, line by line."""

    def lines(origin="nequip-md17-small", **settings):
        parsed = config.parse({"structure": "ethanol", **settings})
        start = systems.initial_structure(parsed.structure, base=registry.Path()).structure
        potential = registry.for_atoms(registry.load("nequip-md17-small"), start.numbers)
        made = problem.prepare(parsed, start, registry.replace(potential, origin=Origin(origin)))
        engine = SimpleNamespace(description="engine", assumptions=lambda structure: ())
        said = []
        introduction.introduce(made, engine, SimpleNamespace(say=said.append))
        return {line.split()[0]: line for text in said for line in text.splitlines()}

    return lines


def test_triggers_are_said_with_what_they_mean_for_the_structure(introduce):
    near = {"kind": "force", "name": "hydroxyl", "threshold": "3 kcal/mol/Å", "confidence": 0.9,
            "within": {"of": [3], "radius_angstrom": 1.3}}  # fmt: skip
    each = {"kind": "energy_per_atom", "threshold": "2 meV/atom"}
    said = introduce(triggers=[near, each])
    head = "triggers trigger total energy per atom force on an atom per component σ at the start watches"
    assert " ".join(said["triggers"].split()) == head
    assert said["energy"].endswith(" all atoms together") and "2.41 meV" in said["energy"]
    assert "3 kcal/mol/Å" in said["hydroxyl"] and "1.73 kcal/mol/Å" in said["hydroxyl"]
    assert said["hydroxyl"].endswith("2 of 9 atoms now: O 2, H 3") and "hydroxyl (0.9)" in said["hydroxyl"]
    assert "0.415 kcal/mol  2 meV" in said["energy_per_atom"]
    assert "triggers" not in introduce()


def test_levels_that_differ_are_said(introduce):
    assert "functional PBE, not B3LYP; dispersion TS, not no dispersion" in introduce()["level"]


def test_equal_levels_are_not(introduce):
    assert "level" not in introduce("mace-matpes-pbe-0", engine={"name": "pyscf", "xc": "pbe"})


def test_models_of_which_the_level_is_not_known_are_named(introduce):
    assert introduce("")["level"] == "  level      of the model: not known; not compared with that of the reference"


def test_the_preset_is_said_with_what_is_set_otherwise(introduce):
    line = introduce(sampler={"batch_size": 3})["preset"]
    assert line == (
        "  preset     of the architecture nequip: prior.scale 0.2, sampler.step_size 0.001, sampler.cold_steps 400; "
        "set otherwise: sampler.batch_size 3 (there 5)"
    )


def test_forces_that_are_not_the_gradient_of_the_energy_are_said(introduce, monkeypatch):
    assert "warning" not in introduce()
    row = replace(architectures.ARCHITECTURES["nequip"], conservative=lambda config: False)
    monkeypatch.setitem(architectures.ARCHITECTURES, "nequip", row)
    assert "the model's forces are not the gradient of its energy" in introduce()["warning"]
